"""The benchmark of sparse files: rows at tiny size, and their table."""

import pytest

from tests.support.about import ABOUT


@pytest.mark.slow
def test_a_sparse_file_is_smaller_and_answers_the_same(tmp_path, capsys):
    from benchmarks import common
    from benchmarks.export import sparse_files

    output = tmp_path / "rows.jsonl"
    flags = ["--network=convnet", "--sparsity=0.8", "--rounds=2", "--steps=1"]
    sparse_files.FLAGS(["program", *flags, f"--output={output}"])
    sparse_files.main(None)
    plain, sparse = common.read_rows(output)
    assert (plain["file"], sparse["file"]) == ("plain", "sparse")
    # 8 of 37,550 weights in 10 are zeros of 4 bytes; which ones are not is stored as well.
    assert plain["bytes"] > 4 * 37_550 > 0.5 * plain["bytes"] > sparse["bytes"]
    assert sparse["difference"] == 0.0 < plain["largest_output"]
    assert capsys.readouterr().out.count("80%") == 2


def of_file(file, size, ratio):
    spread = {f"ratio_{name}": ratio for name in ("median", "p25", "p75")}
    sizes = {"bytes": 1024 * size, "gzipped": 512 * size, "difference": 0.0}
    about = {"command": "python -m benchmarks.export.sparse_files", "rounds": 2, "steps": 1}
    own = {"network": "convnet", "sparsity": 0.8, "file": file}
    return {**own, **sizes, **spread, **about, **ABOUT}


def test_the_table_of_sparse_files():
    from benchmarks.accuracy.smaller.table import SMALLER

    files, made_of = SMALLER["sparse_files"]
    assert files == ("sparse_files",)
    rows = [of_file("plain", 1500, 1.0), of_file("sparse", 400, 0.98)]
    line = made_of({"sparse_files": rows}).splitlines()[2]
    sizes = "1,500.0 | 400.0 | 750.0 | 200.0 | 0.98 (0.98 to 0.98) x | 0 |"
    assert line == f"| convnet of the quick start | 80 % | {sizes}"
    assert made_of({"sparse_files": []}) == "*Not measured yet.*"
