"""What is kept of a look at a file."""

from pathlib import Path

from encoders.adaptation.looked import Broken, Look, Looked

LOOK = Look(b"a" * 32, b"b" * 32, 7, b"c" * 48)


def test_a_second_run_knows_what_was_seen(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(b"1")
    bad.write_bytes(b"2")
    with Looked(tmp_path / "work" / "looked.jsonl") as looked:
        assert looked.get(good) is None
        looked.put(good, LOOK)
        looked.put(bad, Broken("broken_image", "no end"))
        assert looked.get(bad) == Broken("broken_image", "no end")
    with (tmp_path / "work" / "looked.jsonl").open("a") as file:
        file.write('["half a li')
    with Looked(tmp_path / "work" / "looked.jsonl") as again:
        assert again.get(good) == LOOK
        assert again.get(bad) is None  # other limits may let it pass
        good.write_bytes(b"another one")
        assert again.get(good) is None


def test_a_file_that_is_gone_has_an_answer_too(tmp_path: Path) -> None:
    with Looked(tmp_path / "looked.jsonl") as looked:
        looked.put(tmp_path / "none.jpg", Broken("no_file", "No such file or directory"))
        assert isinstance(looked.get(tmp_path / "none.jpg"), Broken)
