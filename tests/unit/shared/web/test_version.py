"""GET /version says of which commit an image is."""

from pathlib import Path

from shared.web.version import VERSION, revision, version


def test_the_revision_is_what_the_build_of_the_image_wrote(tmp_path: Path) -> None:
    file = tmp_path / "revision"
    file.write_text("0123abcd\n")

    assert revision(file) == "0123abcd"


def test_a_checkout_has_no_revision(tmp_path: Path) -> None:
    assert revision(tmp_path / "revision") == ""


async def test_the_version_has_micromdms_keys() -> None:
    answer = await version()

    assert answer.keys() == {
        "version", "branch", "revision", "go_version", "build_date", "build_user",
    }  # fmt: skip
    assert answer["version"] == VERSION
