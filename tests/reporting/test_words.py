"""What a report says of its figures in sentences, and its numbers as people read them."""

import pytest

from modreduce_keras.reporting import svg, words
from modreduce_keras.reporting.measures import ConfusionChange

ODD = "<i>odd</i> | student_2"
CLASSES = ["cat", "dog", "fox", "owl"]


@pytest.fixture
def say(made):
    """Returns what is said of a student whose figures, and whose teacher's, are as given."""

    def say(teacher_accuracy=0.8, teacher_parameters=1000, **figures):
        teacher = made.figures["teacher"]._replace(
            accuracy=teacher_accuracy, parameters=teacher_parameters
        )
        given = {"accuracy": 0.76, "parameters": 100, "agreement": 0.9, "changes": (), **figures}
        student = made.figures["plain"]._replace(**given)
        return words.summary([teacher, student], 70, CLASSES)[1]

    return say


def test_what_is_kept(say):
    name, said = say()
    assert name == "plain"
    assert said.startswith(
        "keeps 95.0 % of the teacher's accuracy (76.0 %) with 1/10 of its parameters, and gives "
        "the same answer 90.0 % of the time."
    )


def test_a_student_that_is_better(say):
    assert "is right more often than the teacher (82.0 %) with" in say(accuracy=0.82)[1]


def test_a_teacher_that_is_never_right(say):
    assert "is right on 76.0 % of 70 samples, with 100" in say(teacher_accuracy=0.0)[1]


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        (0.9, "It is surer than it should be: 90.0 % on average."),
        (0.5, "It is less sure than it could be: 50.0 % on average."),
        (0.77, "It is about as sure as it is right."),
    ],
)
def test_how_sure_it_is(confidence, said, say):
    assert said in say(confidence=confidence)[1]


@pytest.mark.parametrize(("student", "more"), [(9, "more"), (1, "less")])
def test_what_changed_most(student, more, say):
    changes = (ConfusionChange(2, 1, 4, student), ConfusionChange(0, 1, 4, 5))
    said = say(changes=changes)[1]
    expected = f"it takes fox for dog {more} often ({student} times, the teacher 4)."
    assert said.endswith(f"What changed most: {expected}")


def test_tiles_are_of_the_student_that_has_a_file(made):
    figures = list(made.figures.values())
    plain, file = made.figures["plain"], made.figures["plain.tflite"]
    kept = plain.accuracy / made.figures["teacher"].accuracy
    assert words.tiles(figures)[0] == (
        f"{100 * kept:.1f} %",
        "of the teacher's accuracy kept by plain",
    )
    assert [value for value, _ in words.tiles(figures)[3:]] == [
        words.size(file.size),
        words.milliseconds(file.milliseconds),
    ]
    swapped = [figures[0], figures[2], figures[1], figures[3]]
    assert words.tiles(swapped) == words.tiles(figures)
    without = words.tiles(swapped[:3])
    assert without[0][1] == f"of the teacher's accuracy kept by {ODD}"
    assert without[-1][1] == "per sample, in Keras"
    assert words.tiles(figures[1:2])[0][1] == "accuracy of plain"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.fraction(10, 170), "1/17"),
        (words.fraction(62, 100), "62 %"),
        (words.fraction(140, 100), f"1.4 {words.TIMES}"),
        (words.size(1023), "1023 bytes"),
        (words.size(1536), "1.5 KiB"),
        (words.size(3 << 20), "3.0 MiB"),
        (words.size(5 << 30), "5.0 GiB"),
        (words.milliseconds(0.0123), "12.3 µs"),
        (words.milliseconds(1.234), "1.23 ms"),
        (words.milliseconds(1234.5), "1234 ms"),
        (words.signed(-3), "\N{MINUS SIGN}3"),
        (words.signed(0), "0"),
        (svg.shortened("a long name number 7", 66), "a lon…er 7"),
        (svg.shortened("short", 66), "short"),
        (svg.ticks(0.1, 0.87, 4), pytest.approx([0.2, 0.4, 0.6, 0.8])),
        (svg.ticks(0.71, 0.79, 4), pytest.approx([0.72, 0.74, 0.76, 0.78])),
        (
            svg.text(0, 0, "<&>"),
            '<text x="0.0" y="0.0" class="" text-anchor="start">&lt;&amp;&gt;</text>',
        ),
    ],
)
def test_numbers_as_people_read_them(written, expected):
    assert written == expected
