"""The figures of `make bench`: their medians, tables, blocks of a page and plots."""

import argparse
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.generated import within
from tests.load.bench import builds, parser
from tests.load.elsewhere import address_of, api_key_of, authority_in
from tests.load.figures import (
    ONE_PROCESS,
    Figures,
    comparison_table,
    median_of,
    report,
    scenario_table,
    table,
)
from tests.load.machine import Build
from tests.load.pages import PAGE, PLOTS, write, write_block
from tests.load.plots import plot
from tests.load.scenarios import SCENARIOS, Sample
from tests.support.harness.identities import FleetAuthority

MARKS = "before\n<!-- figures: begin (by hand: no) -->\nold\n<!-- figures: end -->\nafter\n"


def figures(rate: float = 1000.0, title: str = ONE_PROCESS, **cpu: float) -> Figures:
    samples = {
        number: {
            name: Sample(1200, rate - number, 20.0, 40.0 + number, cpu or {"all": 450.0}, 70.0)
            for name in SCENARIOS
        }
        for number in (1, 32, 256)
    }
    return Figures(title, 10_000.0, samples, 2.0, {"all": 100.0}, {"all": 120.0})


def cells(line: str) -> list[str]:
    return [each.strip() for each in line.strip().strip("|").split("|")]


def test_a_table_is_markdown_whose_columns_are_aligned() -> None:
    lines = table([["", "a"], ["name", "1"], ["n", "1,000"]]).splitlines()

    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) == set("|-:")
    assert cells(lines[3]) == ["n", "1,000"]


def test_each_scenario_is_shown_with_its_share_target_and_loss_at_many_connections() -> None:
    lines = scenario_table([figures()]).splitlines()

    assert len(lines) == 2 + len(SCENARIOS)
    assert cells(lines[2])[1:] == [
        *("968", "0.097", "0.11", "450", "20.0", "72.0"),
        *("744", "0.77", "296.0"),
    ]


def test_only_one_process_has_targets_of_shares() -> None:
    line = scenario_table([figures(title="separate services")]).splitlines()[2]

    assert cells(line)[3] == ""


def test_the_cpu_of_an_idle_has_a_target_by_the_yardstick() -> None:
    assert "An Idle may take 495 µs" in report([figures()])


def test_what_is_not_known_of_a_server_is_left_out() -> None:
    only_few = {32: {name: Sample(1, 1.0, 1.0, 1.0) for name in SCENARIOS}}
    text = report([Figures("host:8080", None, only_few)])

    assert "start, s" not in text
    assert "yardstick" not in text
    assert cells(text.splitlines()[2])[2:5] == ["", "", ""]


def test_the_cpu_of_separate_services_is_shown_by_process_with_its_target() -> None:
    text = report(
        [figures(title="separate services", checkin=400.0, webhook=200.0, commands=500.0)]
    )

    assert "400 (353)" in text
    assert "200 (171)" in text
    assert "500 (409)" in text


def test_the_median_of_rounds_takes_those_that_had_the_number_of_connections() -> None:
    first, *others = figures(1000.0), figures(3000.0), figures(2000.0)
    others = [replace(each, samples={32: each.samples[32]}) for each in others]

    found = median_of([first, *others])

    assert found.rates["idle"] == 2000.0 - 32
    assert found.samples[1]["idle"].rate == 999.0


def test_a_comparison_has_the_ratio_of_each_figure() -> None:
    text = comparison_table(("a", "b", "ratio"), figures(532.0), figures(1032.0))

    rates = [line for line in text.splitlines() if "requests/s" in line]
    assert [cells(line)[1:] for line in rates] == [["500", "1,000", "2.00"]] * len(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_plot_is_well_formed_and_has_a_point_for_each_number_of_connections(name: str) -> None:
    root = ET.fromstring(plot(name, [figures(), figures(title="separate <services>")]))

    kinds = [each.get("class", "") for each in root.iter() if each.tag.endswith("circle")]
    assert len(kinds) == 6 * 3
    assert all(0 <= float(each.get("cy", "-1")) <= 330 for each in root.iter() if each.get("cy"))


def test_a_block_is_written_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(MARKS)

    write_block("figures", "new\n", page)
    write_block("figures", "newer\n", page)

    assert page.read_text() == MARKS.replace("old\n", "\nnewer\n\n")


@pytest.mark.parametrize("text", ["", "<!-- figures: begin -->\n", "<!-- figures: end -->\n"])
def test_a_page_without_both_marks_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)

    with pytest.raises(ValueError, match="marks"):
        within(page, "figures", "new")


def test_figures_are_written_with_a_plot_for_each_scenario(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(MARKS)

    write([figures()], "the table\n", page, plots := tmp_path / "plots")

    assert "the table" in page.read_text()
    assert {each.stem for each in plots.glob("*.svg")} == SCENARIOS.keys()


def test_the_page_has_marks_for_both_blocks_and_the_plots_that_it_shows() -> None:
    for name in ("figures", "large"):
        assert within(PAGE, name, "") != ""
    for shown in PLOTS.glob("*.svg"):
        ET.fromstring(shown.read_text())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [True, False]),
        (["--all"], [True]),
        (["--services"], [False]),
        (["--all", "--services"], [True, False]),
    ],
)
def test_both_builds_are_measured_unless_one_is_named(
    arguments: list[str], expected: list[bool]
) -> None:
    given: argparse.Namespace = parser().parse_args(arguments)

    assert builds(given) == [Build(is_all, "motor") for is_all in expected]


def test_a_url_names_the_address_of_a_server() -> None:
    plain, encrypted = address_of("http://mdm.test:8080/"), address_of("https://mdm.test")

    assert (plain.host, plain.port, plain.tls) == ("mdm.test", 8080, None)
    assert (encrypted.port, encrypted.tls is None) == (443, False)


@pytest.mark.parametrize("url", ["ftp://mdm.test", "http://", "http://mdm.test/path"])
def test_a_url_that_no_server_has_is_refused(url: str) -> None:
    with pytest.raises(SystemExit):
        address_of(url)


def test_the_ca_of_the_devices_stays_in_its_folder(tmp_path: Path) -> None:
    first = authority_in(tmp_path / "ca")

    assert authority_in(tmp_path / "ca").pem == first.pem
    assert (tmp_path / "ca" / "ca-key.pem").stat().st_mode & 0o077 == 0


def test_a_given_ca_signs_the_devices(tmp_path: Path) -> None:
    given = FleetAuthority("of the operator")
    (tmp_path / "ca.pem").write_bytes(given.pem)
    (tmp_path / "ca-key.pem").write_bytes(given.identity.key_pem)

    device = authority_in(tmp_path).issue()

    device.certificate.verify_directly_issued_by(given.certificate)


def test_an_api_key_is_never_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "key"
    file.write_text("the-secret\n")

    assert api_key_of(file) == "the-secret"
    assert "the-secret" not in "".join(capsys.readouterr())


def test_without_an_api_key_nothing_is_measured() -> None:
    with pytest.raises(SystemExit):
        api_key_of(None, {})
