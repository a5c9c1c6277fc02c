"""The Loss lab: its numbers, and its figures in a browser."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import pytest
import torch
from PIL import Image

from interface.loss_lab_figures import (
    HYBRID,
    Specimen,
    chart,
    gallery_panels,
    loss_table,
    one_core_each,
    ring_difference,
    sharpness_panels,
    sorted_chart,
    specimen,
    spectrum_panels,
    surface_panels,
    table_rows,
)
from interface.loss_lab_tab import VIEWS, build_loss_lab_tab
from modeling import LOSS_TERMS
from modeling.degradations import DISTORTIONS, distort
from tests.conftest import ASCENT


@pytest.fixture(scope="module")
def seen():
    return specimen(str(ASCENT))


@pytest.fixture(scope="module")
def table(seen):
    return loss_table(seen, seen.strengths(22.65, 0.0), 2.0)


def test_the_story_of_the_second_post(table):
    for values in table.values():
        assert values["PSNR (dB)"] == pytest.approx(22.65, abs=0.01)
        assert values["pixel"] == pytest.approx(values["complex_spectrum"], rel=1e-4)
    for name in ("shift", "scrambled_phase", "zeroed_phase"):
        assert table[name]["amplitude"] < 1e-5 * table["blur"]["amplitude"]
    hybrid = {name: values[HYBRID] for name, values in table.items()}
    assert hybrid["blur"] > hybrid["noise"] > hybrid["shift"]


def test_values_are_those_of_the_losses_at_the_emphasis(seen, table):
    strength = seen.strengths(22.65, 0.0)["noise"]
    distorted = distort(seen.image, "noise", strength)
    for name, row in LOSS_TERMS.items():
        emphasis = {"high_frequency_emphasis": 2.0} if row.emphasised else {}
        expected = row.function(distorted, seen.image, **emphasis).item()
        assert table["noise"][name] == pytest.approx(expected, rel=1e-4), name


def test_rows_are_absolute_or_relative_to_the_blur(table):
    rows = {row[0]: row[1:] for row in table_rows(table, relative=True)}
    assert list(rows)[: len(LOSS_TERMS) + 1] == [*LOSS_TERMS, HYBRID]
    assert rows["amplitude"][list(DISTORTIONS).index("blur")] == "1"
    assert table_rows({"blur": {"pixel": 0.5}}, relative=False) == [["pixel", "-", "0.5", "-", "-", "-", "-"]]


def test_without_a_blur_of_that_psnr_there_is_a_table_and_no_chart(seen):
    strengths = seen.strengths(12.0, 0.0)
    assert "blur" not in strengths and "noise" in strengths
    table = loss_table(seen, strengths, 0.0)
    assert chart(table) is None
    blur = 1 + list(DISTORTIONS).index("blur")
    assert all(row[blur] == "-" for row in table_rows(table, relative=False))


def test_strengths_can_be_a_share_of_the_largest(seen):
    assert seen.strengths(None, 0.5)["blur"] == 0.5 * DISTORTIONS["blur"].maximum


@pytest.mark.parametrize(("kernel", "expected"), [(15, 14.8913), (5, 10.0407)])
def test_ring_number_of_the_first_post(kernel, expected):
    assert ring_difference(8, kernel)[2] == pytest.approx(expected, abs=5e-5)


def test_figures_are_drawn(seen, table):
    strengths = seen.strengths(22.65, 0.0)
    for figure in (
        gallery_panels(seen, strengths),
        spectrum_panels(seen, "blur", strengths["blur"], 1.0),
        surface_panels(0.2),
        sharpness_panels(seen, 16),
        sorted_chart(seen, 16),
        chart(table),
    ):
        assert isinstance(figure, Image.Image) and torch.tensor(figure.getextrema()).diff().min() > 50


def test_windows_of_all_sizes_share_one_scale():
    noise = Specimen(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    means = [noise.window_scores(side).mean().item() for side in (4, 16, 64, 100)]
    assert means == pytest.approx([means[0]] * 4, rel=0.05)  # of one texture
    assert max(noise.window_scores(side).max().item() for side in range(4, 64, 2)) < noise.sharpest
    assert Specimen(torch.full((1, 1, 1, 1), 0.5)).sharpest > 0


def test_bad_files_are_refused_and_large_ones_cut(tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(gr.Error, match=r"notes\.png cannot be read"):
        specimen(str(tmp_path / "notes.png"))
    Image.new("RGB", (700, 300)).save(tmp_path / "wide.png")
    assert specimen(str(tmp_path / "wide.png")).image.shape == (1, 1, 300, 512)


def page_functions() -> dict:
    with gr.Blocks(analytics_enabled=False) as app, gr.Tab("Loss lab") as lab:
        build_loss_lab_tab(lab, ASCENT)
    return {function.name: function.fn for function in app.fns.values()}


SETTING = ("blur", 0.0, False, True, 22.65, 0.1)


def test_an_image_that_was_put_away_is_asked_for_again(seen):
    page = page_functions()
    for name, arguments in (
        *(("draw_view", (view, None, True, *SETTING)) for view in VIEWS),
        ("draw_sharpness", (None, 16)),
        ("open_lab", (None, True)),
    ):
        with pytest.raises(gr.Error, match="after an hour: open it again"):
            page[name](*arguments)


def test_the_lab_opens_its_example_once(seen):
    page = page_functions()
    first, is_open = page["open_lab"](None, False)
    assert torch.equal(first.image, seen.image) and is_open
    assert page["open_lab"](first, True) == (first, True)


def test_only_the_view_that_is_looked_at_is_drawn(seen):
    draw = page_functions()["draw_view"]
    for view, expected in zip(VIEWS, ({"lab-pictures"}, {"lab-spectra"}, {"lab-table", "lab-chart"}), strict=True):
        results = draw(view, seen, True, *SETTING)
        drawn = {part.elem_id for part, value in results.items() if isinstance(value, str | list)}
        assert len(results) == 4 and drawn == expected
        # Before the example is open there is nothing to draw, and nothing wrong.
        assert not any(isinstance(value, str | list) for value in draw(view, None, False, *SETTING).values())


def test_the_emphasis_leaves_the_other_losses_alone(seen):
    strengths = seen.strengths(22.65, 0.0)
    loss_table(seen, strengths, 0.5)
    before = seen.loss.cache_info().misses
    loss_table(seen, strengths, 1.5)
    assert seen.loss.cache_info().misses - before == sum(term.emphasised for term in LOSS_TERMS.values())


def test_threads_that_work_alone_leave_the_others_their_cores():
    cores = torch.get_num_threads()
    with ThreadPoolExecutor(1) as other:
        assert {one_core_each().submit(torch.get_num_threads).result() for _ in range(20)} == {1}
        assert torch.get_num_threads() == other.submit(torch.get_num_threads).result() == cores
