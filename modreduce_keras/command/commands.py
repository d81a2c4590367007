"""Commands: the subcommands of `modreduce` and the flags of each."""

from dataclasses import dataclass
from typing import Any

from absl import flags as absl_flags

STRING, LIST, INTEGER, NUMBER, CHOICE, SWITCH = (
    *("string", "list", "integer", "number", "choice"),
    "switch",
)
FORMATS = ("float32", "float16", "dynamic", "int8", "onnx", "saved_model")
AUTO = "auto"
PIXELS = (AUTO, "0..1", "-1..1", "0..255")
SAMPLE = "fashion_sample"
MODEL_FILE, NAME_OR_MODEL_FILE = "FILE.keras", "NAME|FILE.keras"


@dataclass(frozen=True)
class Flag:
    """One flag.

    Args:
        name: Its name.
        kind: What its value is: one of `STRING`, `LIST`, ...
        text: What the help says about it.
        value: What the help writes for the value.
        default: Its value if it is not given.
        required: Whether it must be given.
        least: The smallest number.
        most: The largest number.
        choices: Of a `CHOICE`: the values.
    """

    name: str
    kind: str
    text: str
    value: str = ""
    default: Any = None
    required: bool = False
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    def define(self, values: absl_flags.FlagValues) -> None:
        """Defines the flag in a set of flags."""
        options: dict[str, Any] = {"flag_values": values}
        if self.kind == CHOICE:
            absl_flags.DEFINE_enum(
                self.name, self.default, list(self.choices), self.text, **options
            )
            return
        if self.kind in (INTEGER, NUMBER):
            options |= {"lower_bound": self.least, "upper_bound": self.most}
        define: Any = {
            STRING: absl_flags.DEFINE_string,
            LIST: absl_flags.DEFINE_list,
            INTEGER: absl_flags.DEFINE_integer,
            NUMBER: absl_flags.DEFINE_float,
            SWITCH: absl_flags.DEFINE_bool,
        }[self.kind]
        define(self.name, self.default, self.text, **options)


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Args:
        name: Its name.
        about: What it does, in a line.
        details: More about it, for its own help.
        groups: Its flags, by the heading that the help puts over them.
        examples: Lines to copy.
        arguments: What may stand behind it without a flag, for the help.
    """

    name: str
    about: str
    details: str
    groups: dict[str, tuple[Flag, ...]]
    examples: tuple[str, ...] = ()
    arguments: str = ""

    @property
    def flags(self) -> list[Flag]:
        """All flags of the command."""
        return [flag for group in self.groups.values() for flag in group]

    def flag_values(self) -> absl_flags.FlagValues:
        """Returns a set of flags that knows those of this command alone."""
        values = absl_flags.FlagValues()
        values.set_gnu_getopt(True)  # flags may stand behind other words
        for flag in self.flags:
            flag.define(values)
        return values


DATA = Flag(
    "data",
    STRING,
    "A folder of images with one folder for each class (or with train, validation and test "
    "folders of such); a CSV table with a header; tfds:NAME, a dataset of tensorflow-datasets; or "
    f"{SAMPLE}, 12,000 small images that come with the library.",
    "FOLDER|TABLE.csv|tfds:NAME",
    required=True,
)
ABOUT_DATA = (
    Flag("label", STRING, "Column of a table that holds the labels; the last by default.", "NAME"),
    Flag(
        "validation_split",
        NUMBER,
        "Share of the training data that is held out, where the data have no validation part.",
        "SHARE",
        default=0.1,
        least=0.001,
        most=0.9,
    ),
    Flag(
        "pixels",
        CHOICE,
        "Range of the pixels that the model was trained with. By default the range in which it is "
        "right most often.",
        default=AUTO,
        choices=PIXELS,
    ),
    Flag("data_dir", STRING, "Folder of tensorflow-datasets.", "FOLDER"),
    Flag("batch_size", INTEGER, "Samples in a batch.", "N", default=64, least=1),
)
SIZE = Flag(
    "image_size",
    INTEGER,
    "Height and width that images are resized to; by default those that the model takes.",
    "N",
    least=1,
)


def _files(default: str) -> tuple[Flag, ...]:
    return (
        Flag(
            "formats",
            LIST,
            f"Files to write: any of {', '.join(FORMATS)}, or none. The first four are TFLite.",
            "NAMES",
            default=default,
        ),
        Flag(
            "least_agreement",
            NUMBER,
            "Share of the answers in which a file must agree with its model.",
            "SHARE",
            default=0.97,
            least=0.0,
            most=1.0,
        ),
    )


OTHERS = (
    Flag("flagfile", STRING, "File with one of these flags in each line.", "FILE"),
    Flag("traceback", SWITCH, "Show where in the code an error arose.", default=False),
)

DISTILL = Command(
    "distill",
    "Trains a small model on the outputs of a large one; writes TFLite files and a report too.",
    "Trains a student on the labels and on what a trained teacher knows, and writes student.keras, "
    "exported files with proof that they agree with it, a report that compares student and "
    "teacher, and summary.json. A run that was killed continues when the same command is given "
    "again.",
    {
        "What to train": (
            Flag("teacher", STRING, "The trained model.", MODEL_FILE, required=True),
            Flag(
                "student",
                STRING,
                "The model to train: a name of keras.applications or mr.models, such as "
                "mobilenet_v3_small or resnet20, for a new one; or a file.",
                NAME_OR_MODEL_FILE,
                required=True,
            ),
            DATA,
            Flag("out", STRING, "Folder of the run.", "FOLDER", required=True),
        ),
        "Data": (
            *ABOUT_DATA,
            SIZE,
            Flag("augment", SWITCH, "Flip and crop training images at random.", default=False),
        ),
        "Training": (
            Flag(
                "knowledge",
                LIST,
                "Methods, with other layers and weights than their defaults if you like: dist, "
                "kd=0.9, hint, hint@LAYER=100 or hint@STUDENT_LAYER@TEACHER_LAYER. `modreduce "
                "methods` lists them. By default what the library recommends.",
                "METHODS",
            ),
            Flag("temperature", NUMBER, "Of the methods that have one.", "T", least=1e-3),
            Flag("supervised_weight", NUMBER, "Weight of the labels.", "W", default=1.0, least=0.0),
            Flag("epochs", INTEGER, "Passes over the training data.", "N", default=30, least=1),
            Flag(
                "optimizer",
                CHOICE,
                "How weights are updated.",
                default="adam",
                choices=("adam", "adamw", "sgd"),
            ),
            Flag(
                "learning_rate",
                NUMBER,
                "At the beginning; it falls to 0 along a cosine. By default 0.001, and 0.05 for "
                "sgd.",
                "RATE",
                least=0.0,
            ),
            Flag("seed", INTEGER, "Of first weights and order.", "N", default=0, least=0),
            Flag(
                "checkpoint_every",
                INTEGER,
                "Steps between checkpoints within an epoch; by default one at its end.",
                "N",
                least=1,
            ),
        ),
        "Files": (
            *_files("float32,dynamic,int8"),
            Flag("report", SWITCH, "Write the report.", default=True),
        ),
        "Others": OTHERS,
    },
    (
        "modreduce distill --teacher=teacher.keras --student=mobilenet_v3_small "
        "--data=photos --out=runs/a",
        f"modreduce distill --teacher=teacher.keras --student=convnet --data={SAMPLE} "
        "--knowledge=dist,hint@stage2=100 --epochs=10 --out=runs/b",
        "modreduce distill --flagfile=run.txt",
    ),
)
EXPORT = Command(
    "export",
    "Writes files for phones and servers from a saved model, and compares each with the model.",
    "Writes TFLite, ONNX and SavedModel files from a saved Keras model, runs each on validation or "
    "test data, and writes what was found beside it. int8 files are calibrated with training data.",
    {
        "What to export": (
            Flag("student", STRING, "The model.", MODEL_FILE, required=True),
            DATA,
            Flag("out", STRING, "Folder to write to.", "FOLDER", required=True),
        ),
        "Files": _files("float32,dynamic,int8"),
        "Data": (*ABOUT_DATA, SIZE),
        "Others": OTHERS,
    },
    ("modreduce export --student=student.keras --data=photos --formats=int8 --out=phone",),
)
REPORT = Command(
    "report",
    "Compares students, and files made from them, with their teacher on a page.",
    "Writes report.html and report.md: accuracy, size, time, agreement with the teacher, "
    "calibration, and the classes and images where they differ.",
    {
        "What to compare": (
            Flag("teacher", STRING, "The model to compare with; it may be missing.", MODEL_FILE),
            Flag(
                "student",
                LIST,
                "One model, or several; each is named by its file, or NAME=FILE.keras.",
                "FILES",
                required=True,
            ),
            Flag("files", LIST, "Files that were exported from the one student.", "FILES"),
            DATA,
            Flag("out", STRING, "Folder to write to.", "FOLDER", required=True),
            Flag("title", STRING, "Heading of the page.", "TEXT"),
        ),
        "Data": (*ABOUT_DATA, SIZE),
        "Others": OTHERS,
    },
    (
        "modreduce report --teacher=teacher.keras --student=runs/a/student.keras "
        "--files=runs/a/student_int8.tflite --data=photos --out=page",
    ),
)
METHODS = Command(
    "methods",
    "Lists the methods of distillation, and what a training step with each costs.",
    "Without a name it lists all methods; with one it explains that method.",
    {
        "Choice": (
            Flag(
                "kind",
                CHOICE,
                "Methods that compare logits (response), layers (feature) or samples (relation).",
                choices=("response", "feature", "relation"),
            ),
            Flag("json", SWITCH, "Print JSON, for programs.", default=False),
        ),
        "Others": OTHERS,
    },
    ("modreduce methods", "modreduce methods dist"),
    "[NAME]",
)
COMMANDS = {one.name: one for one in (DISTILL, EXPORT, REPORT, METHODS)}
