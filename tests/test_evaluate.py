"""The evaluation command: its protocol, its measures, and what it writes."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image

from modeling import PRESETS, ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.metrics import fourier_ring_correlation, octave_spectrum_error, psnr
from tests.conftest import tiny_config
from training.data import ImageStore, load_images
from training.evaluate import FunctionDenoiser, Setting, evaluate, main, means, sweep_settings
from training.evaluation_measures import MEASURES, QUICK_MEASURES, measured
from training.evaluation_report import eval_results, print_table, rising_share


def identity(image: torch.Tensor, noise_level: float) -> torch.Tensor:
    return image


def a_share_of_the_level(image: torch.Tensor, noise_level: float) -> torch.Tensor:
    return image - noise_level / 2


def wrong_size(image: torch.Tensor, noise_level: float) -> torch.Tensor:
    return image[:, :-1]


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


# ---------------------------------------------------------------------------------------------------------------------
# The protocol
# ---------------------------------------------------------------------------------------------------------------------


def test_the_identity_scores_the_noise(image_folder):
    """A fresh network returns its input: PSNR is that of the noisy image, by the stated protocol."""
    images = ImageStore(load_images(str(image_folder)))
    model = ViTUNetForImageDenoising(tiny_config()).eval()
    rows = evaluate(model, images, 25 / 255, [Setting("given")])
    assert [row["image"] for row in rows] == list(range(6))
    for index, row in enumerate(rows):
        clean = images[index].float() / 255
        assert row["psnr"] == pytest.approx(psnr(indexed_gaussian_noise(clean, 25 / 255, index), clean))
    mean = means({"sets": {"set": {"25": rows}}})["set"]["25"]["given"]["psnr"]
    assert mean == pytest.approx(sum(row["psnr"] for row in rows) / 6)


def test_a_sweep_goes_from_the_fidelity_corner_to_full_weight():
    settings = sweep_settings("wavelet", 2.0)
    assert len(settings) == 11
    assert settings[0].loss_weights == {"pixel": 1.0, "wavelet": 0.0}
    assert settings[-1].loss_weights == {"pixel": 0.0, "wavelet": 1.0}
    assert settings[5].high_frequency_emphasis == 2.0


def test_what_is_not_defined_is_left_out_of_the_means():
    rows = [{"image": 0, "setting": "a", "ssim": math.nan}, {"image": 1, "setting": "a", "ssim": 0.5}]
    rows.append({"image": 2, "setting": "a", "ssim": None})  # as the JSON file has it
    assert means({"sets": {"set": {"15": rows}}}) == {"set": {"15": {"a": {"ssim": 0.5}}}}
    assert math.isnan(means({"sets": {"set": {"15": rows[:1]}}})["set"]["15"]["a"]["ssim"])


def test_files_that_cannot_be_decoded_are_left_out(tmp_path):
    Image.new("RGB", (40, 40), "gray").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    images = ImageStore(load_images(str(tmp_path)))
    denoiser = FunctionDenoiser(identity)
    with pytest.warns(UserWarning, match="image 1"):
        assert len(evaluate(denoiser, images, 0.1, [Setting("given")], True, ["psnr"])) == 1
    images.unreadable[0], images.kept[0] = True, None
    with pytest.raises(ValueError, match="None of the 2 images"):
        evaluate(denoiser, images, 0.1, [Setting("given")], True, ["psnr"])


# ---------------------------------------------------------------------------------------------------------------------
# The measures
# ---------------------------------------------------------------------------------------------------------------------


def test_every_measure_knows_equal_images_and_grades_blur(ascent):
    target = ascent[0, :, 100:229, 200:331].float().expand(3, -1, -1)  # odd sides
    slightly, heavily = (torch.nn.functional.avg_pool2d(target, side, 1, side // 2) for side in (3, 7))
    perfect = {"ssim": 1, "haarpsi": 1, "gmsd": 0, "fsim": 1, "flip": 0, "sharpness_ratio": 1}
    for name, value in perfect.items():
        assert measured([name], target, target)[name] == pytest.approx(value, abs=1e-4)
        distances = [abs(measured([name], image, target)[name] - value) for image in (slightly, heavily)]
        assert 1e-4 < distances[0] < distances[1]


def test_all_octaves_with_their_correlation(ascent):
    target = ascent[0].float().expand(3, -1, -1)
    blurred = torch.nn.functional.avg_pool2d(target, 5, 1, 2)
    values = measured(["octaves", "top_octave_dB", "top_octave_corr"], blurred, target)
    assert [values[f"octave_{n}_dB"] for n in (1, 2, 3, 4)] == octave_spectrum_error(blurred, target)
    assert [values[f"octave_{n}_corr"] for n in (1, 2, 3, 4)] == fourier_ring_correlation(blurred, target)
    assert values["octave_1_dB"] == values["top_octave_dB"] < values["octave_4_dB"]


def test_mean_squared_error_is_that_of_the_psnr(ascent):
    target = ascent[0].float().expand(3, -1, -1)
    values = measured(["psnr", "mse"], target + 0.3, target)  # clipped at 1
    assert 0 < values["mse"] == pytest.approx(10 ** (-values["psnr"] / 10))
    assert values["mse"] < 0.09


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (15, 40)])
def test_images_too_small_for_a_measure_are_nan_and_no_error(size):
    image = torch.rand(3, *size)
    values = measured(list(MEASURES), image, image)
    assert all(math.isnan(values[name]) for name in ("haarpsi", "gmsd", "fsim", "artefact_index"))


def test_without_the_libraries_the_rest_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "piq", None)
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    image = torch.rand(3, 40, 40)
    assert measured(QUICK_MEASURES, image, image)["psnr"] == math.inf
    for name, package in (("fsim", "piq"), ("flip", "flip-evaluator")):
        with pytest.raises(ValueError, match=rf"--measures {name} needs the package {package}.*\[train\]"):
            main(["--model", "x", "--dataset", "y", "--measures", "psnr", name])


# ---------------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------------


def test_a_sweep_by_command(saved, image_folder, tmp_path, capsys):
    output = tmp_path / "new" / "results.json"
    common = ["--model", saved, "--dataset", str(image_folder), "--noise_level", "15", "50"]
    main([*common, "--sweep", "wavelet", "--output", str(output), "--limit", "2"])
    printed = capsys.readouterr().out
    assert "cost (dB)" in printed and "mean sharpness ratio rises at every stop" in printed
    results = json.loads(output.read_text())
    assert list(results) == ["model", "protocol", "sets"] and results["protocol"]["sweep"] == "wavelet"
    (rows,) = (levels["50"] for levels in results["sets"].values())
    assert len(rows) == 2 * 11 and set(rows[0]) == {"image", "setting", *QUICK_MEASURES}
    blind = main([*common, "--loss_weights", '{"wavelet": 1}', "--limit", "1"])
    told = main([*common, "--loss_weights", '{"wavelet": 1}', "--limit", "1", "--tell_noise_level", "true"])
    assert {entry.dataset_config for entry in eval_results(told)} == {
        f"sigma {level}, noise level told" for level in (15, 50)
    }
    blind, told = (values["sets"][image_folder.name]["50"][0]["psnr"] for values in (blind, told))
    assert blind != told
    torch.testing.assert_close(blind, rows[10]["psnr"])


def test_half_precision_by_command(saved, image_folder):
    common = ["--model", saved, "--dataset", str(image_folder), "--noise_level", "25", "--limit", "1"]
    whole, half = (main([*common, "--dtype", dtype]) for dtype in ("float32", "bfloat16"))
    values = [result["sets"][image_folder.name]["25"][0]["psnr"] for result in (whole, half)]
    assert values[0] != values[1] == pytest.approx(values[0], abs=0.1)
    assert half["protocol"]["dtype"] == "bfloat16"
    configs = [{entry.dataset_config for entry in eval_results(result)} for result in (whole, half)]
    assert configs == [{"sigma 25"}, {"sigma 25, bfloat16"}]
    with pytest.raises(ValueError, match="has its own"):
        main(["--function", f"{__name__}:identity", "--dataset", "x", "--dtype", "bfloat16"])


def test_a_network_for_one_loss_is_asked_for_no_other(image_folder, tmp_path):
    ViTUNetForImageDenoising(tiny_config(one_loss=True)).save_pretrained(tmp_path)
    common = ["--model", str(tmp_path), "--dataset", str(image_folder), "--noise_level", "25", "--limit", "1"]
    assert main(common)["sets"]
    for option in (["--preset", "mse"], ["--sweep", "wavelet"], ["--high_frequency_emphasis", "1"]):
        with pytest.raises(ValueError, match="its default loss alone"):
            main([*common, *option])


def test_a_self_ensemble_by_command(saved, image_folder):
    """It is told as such wherever its numbers go: a model's own are others."""
    common = ["--model", saved, "--dataset", str(image_folder), "--noise_level", "25", "--limit", "1"]
    once, mean = (main([*common, *options]) for options in ([], ["--self_ensemble"]))
    values = [result["sets"][image_folder.name]["25"][0]["psnr"] for result in (once, mean)]
    assert values[0] != values[1]
    assert [result["protocol"]["self_ensemble"] for result in (once, mean)] == [False, True]
    configs = [{entry.dataset_config for entry in eval_results(result)} for result in (once, mean)]
    assert configs == [{"sigma 25"}, {"sigma 25, self-ensemble"}]
    with pytest.raises(ValueError, match="self_ensemble"):
        main(["--function", f"{__name__}:identity", "--dataset", str(image_folder), "--self_ensemble"])


def test_several_sets_and_settings(saved, image_folder, tmp_path, capsys):
    others = [tmp_path / name / "test" for name in ("a", "b")]
    for folder in others:
        folder.mkdir(parents=True)
        Image.effect_noise((40, 36), 60).convert("RGB").save(folder / "image.png")
    card, output = tmp_path / "card" / "index.yaml", tmp_path / "results.json"
    sets = ["--dataset", str(image_folder), *map(str, others), "--noise_level", "15", "25.5", "--limit", "1"]
    controls = ["--preset", "mse", "frequency_emphasis"]
    controls += ["--loss_weights", '{"pixel": 1, "wavelet": 1}', '{"wavelet": 1}']
    files = ["--plots", str(tmp_path / "plots"), "--model_index", str(card), "--output", str(output)]
    results = main(["--model", saved, *sets, *controls, "--measures", "all", *files])
    # Two of one name go by as much of their paths as tells them apart.
    assert list(results["sets"]) == [image_folder.name, "a-test", "b-test"]
    settings = ["mse", "frequency_emphasis", "pixel 1, wavelet 1", "wavelet 1"]
    assert list(results["protocol"]["settings"]) == settings
    assert results["protocol"]["settings"]["frequency_emphasis"] == {
        "loss_weights": dict(PRESETS["frequency_emphasis"].loss_weights),
        "high_frequency_emphasis": 2.0,
    }
    table = means(results)[image_folder.name]["25.5"]
    assert list(table) == settings and table["mse"]["psnr"] != table["wavelet 1"]["psnr"]
    assert {"flip", "fsim", "octave_4_corr"} <= set(table["mse"])
    printed = capsys.readouterr().out
    assert f"{image_folder.name}, noise level 25.5/255, 1 images" in printed
    assert "dB / correlation, cycles/pixel" in printed and "rises at every stop" not in printed

    assert len(list((tmp_path / "plots").glob("*.png"))) == 2 * 3
    ((name, entries),) = [model_index_to_eval_results(yaml.safe_load(card.read_text())["model-index"])]
    assert name == "model"
    assert {entry.dataset_config for entry in entries} >= {"sigma 15, mse", "sigma 25.5, wavelet 1"}
    (entry,) = (
        entry
        for entry in entries
        if entry.dataset_name == f"{image_folder.name}, sigma 25.5, mse" and entry.metric_type == "psnr"
    )
    assert entry.metric_value == pytest.approx(table["mse"]["psnr"], abs=0.005)
    again = json.loads(output.read_text())
    assert [entry.metric_value for entry in eval_results(again)] == [entry.metric_value for entry in entries]


def test_few_measures(saved, image_folder, capsys):
    for measures in (["sharpness_ratio"], ["octaves"]):
        results = main(["--model", saved, "--dataset", str(image_folder), "--measures", *measures, "--limit", "1"])
        rows = results["sets"][image_folder.name]["15"]
        found = {"octaves" if key.startswith("octave_") else key for key in rows[0]}
        assert found == {"image", "setting", *measures}
    assert capsys.readouterr().out.count("noise level 50/255, 1 images") == 2


def test_another_denoiser(image_folder):
    common = ["--dataset", str(image_folder), "--noise_level", "25", "--measures", "psnr", "--limit", "2"]
    results = main(["--function", f"{__name__}:identity", *common])
    clean = ImageStore(load_images(str(image_folder)))[1].float() / 255
    noisy = indexed_gaussian_noise(clean, 25 / 255, 1)
    (rows,) = (levels["25"] for levels in results["sets"].values())
    assert rows[1]["psnr"] == pytest.approx(psnr(noisy, clean))
    assert results["model"] == f"{__name__}:identity" and results["protocol"]["noise_level_told"]
    rows = main(["--function", f"{__name__}:a_share_of_the_level", *common])["sets"][image_folder.name]["25"]
    assert rows[1]["psnr"] == pytest.approx(psnr(noisy - 12.5 / 255, clean))
    with pytest.raises(ValueError, match="returned"):
        main(["--function", f"{__name__}:wrong_size", *common])


def test_a_sweep_counts_the_images_on_which_it_rises(capsys):
    ratios = {0: (0.5, 0.6, 0.7), 1: (0.5, 0.9, 0.8), 2: (0.1, 0.2, 0.2), 3: (0.7, 0.8, 1.1)}
    rows = [
        {"image": image, "setting": f"wavelet {stop}", "sharpness_ratio": values[stop]}
        for stop in range(3)
        for image, values in ratios.items()
    ]
    assert rising_share(rows) == 0.5
    flat = [{"image": 4, "setting": f"wavelet {stop}", "sharpness_ratio": math.nan} for stop in range(3)]
    assert rising_share(rows + flat) == 0.5 and math.isnan(rising_share(flat))
    print_table("set", "25", rows, sweep="wavelet")
    assert "rises at every stop: yes; so it does on 50 % of the images" in capsys.readouterr().out


def test_tables_of_what_is_not_defined(capsys):
    print_table("set", "15", [{"image": 0, "setting": "a", "psnr": math.inf, "ssim": math.nan}])
    assert "inf" in capsys.readouterr().out


@pytest.mark.parametrize(
    "extra",
    [
        ["--sweep", "pixel"],
        ["--sweep", "wavelet", "--loss_weights", '{"pixel": 1}'],
        ["--sweep", "wavelet", "--preset", "mse"],
        ["--measures", "fid"],
        ["--preset", "sharp"],
        ["--loss_weights", "pixel=1"],
        ["--loss_weights", "[1]"],
        ["--limit", "0"],
        ["--function", "module:function"],
    ],
)
def test_bad_arguments_are_refused(extra):
    with pytest.raises(ValueError, match=extra[0]):
        main(["--model", "x", "--dataset", "y", *extra])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of the two"),
        (["--function", "no_such_module:f"], "importable"),
        (["--function", "json"], "importable"),
        (["--function", "json:no_such_function"], "importable"),
        (["--function", "json:loads", "--preset", "mse"], "no controls"),
        (["--model", "x", "--preset", "mse", "mse"], "more than once"),
        (["--model", "{folder}"], "config.json"),
    ],
)
def test_bad_denoisers_and_settings_are_refused(arguments, message, image_folder):
    arguments = [argument.format(folder=image_folder) for argument in arguments]
    with pytest.raises(ValueError, match=message):
        main(["--dataset", str(image_folder), *arguments])
    with pytest.raises(ValueError, match="--dataset"):
        main(["--dataset", str(image_folder), str(image_folder), "--model", "x"])
