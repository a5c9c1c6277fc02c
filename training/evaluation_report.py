"""What `training.evaluate` measured, as tables, JSON, plots and the metrics of a model card.

All of them read one dictionary, in memory as in the JSON file:

    {"model": Hub id, folder or module:function,
     "protocol": {how it was measured: noise, settings of the controls by name, measures and their meaning},
     "sets": {"CBSD68": {"25": [{"image": 0, "setting": "default", "psnr": 30.1, ...}, ...]}}}

Sets by name, noise levels in 255ths, one row per image and setting. What is not finite, such as a measure that is not
defined for a tiny image, is null in the file.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import ModelCardData

from training.evaluation_measures import MEASURES, library

Means = dict[str, dict[str, dict[str, dict[str, float]]]]  # set -> noise level -> setting -> measure


def setting_means(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Setting -> mean of each measure over the images, those left out for which it is not defined."""
    table = {}
    for setting in dict.fromkeys(row["setting"] for row in rows):
        mine = [row for row in rows if row["setting"] == setting]
        columns = {name: [row[name] for row in mine] for name in mine[0] if name not in {"image", "setting"}}
        defined = {name: [v for v in column if v is not None and not math.isnan(v)] for name, column in columns.items()}
        table[setting] = {name: sum(column) / len(column) if column else math.nan for name, column in defined.items()}
    return table


def means(results: dict) -> Means:
    """Set -> noise level -> setting -> measure -> mean over the images. `results` may come from the JSON file."""
    return {
        name: {level: setting_means(rows) for level, rows in levels.items()} for name, levels in results["sets"].items()
    }


# ---------------------------------------------------------------------------------------------------------------------
# On the screen
# ---------------------------------------------------------------------------------------------------------------------


def print_table(name: str, level: str, rows: list[dict], sweep: str | None = None) -> None:
    """One line per setting; `cost` is the PSNR that it loses to the first one."""
    table = setting_means(rows)
    first = next(iter(table.values()))
    width = max(28, 2 + max(map(len, table)))
    octaves = octave_numbers(first)
    columns = [column for column in first if not column.startswith("octave_")]
    print(f"\n{name}, noise level {level}/255, {len({row['image'] for row in rows})} images")
    if columns:
        cost = f"{'cost (dB)':>11}" if "psnr" in first and len(table) > 1 else ""
        print(f"{'setting':<{width}}" + "".join(f"{column:>17}" for column in columns) + cost)
    for setting, values in table.items() if columns else ():
        cost = f"{first['psnr'] - values['psnr']:>11.3f}" if cost else ""
        print(f"{setting:<{width}}" + "".join(f"{values[column]:>17.4f}" for column in columns) + cost)
    if octaves:
        bands = [octave_band(octave) for octave in octaves]
        print(f"{'dB / correlation, cycles/pixel':<{width + 3}}" + "".join(f"{band:>17}" for band in bands))
        for setting, values in table.items():
            pairs = [(values[f"octave_{n}_dB"], values[f"octave_{n}_corr"]) for n in octaves]
            print(f"{setting:<{width + 3}}" + "".join(f"{f'{dB:.2f} / {corr:.3f}':>17}" for dB, corr in pairs))
    if sweep and "sharpness_ratio" in first:
        rising = rises([values["sharpness_ratio"] for values in table.values()])
        print(f"mean sharpness ratio rises at every stop: {'yes' if rising else 'no'}", end="; ")
        print(f"so it does on {100 * rising_share(rows):.0f} % of the images")


def rises(values: list[float]) -> bool:
    return all(later > earlier for earlier, later in itertools.pairwise(values))


def rising_share(rows: list[dict], measure: str = "sharpness_ratio") -> float:
    """Share of the images on which a measure rises from each setting to the next, of those on which it is defined."""
    images: dict[int, list[float]] = {}
    for row in rows:
        images.setdefault(row["image"], []).append(math.nan if row[measure] is None else row[measure])
    defined = [values for values in images.values() if not any(map(math.isnan, values))]
    return sum(map(rises, defined)) / len(defined) if defined else math.nan


def octave_numbers(values: dict[str, float]) -> list[int]:
    """1, 2, ... for the octaves that were measured, finest first."""
    return [int(column.split("_")[1]) for column in values if re.fullmatch(r"octave_\d+_dB", column)]


def octave_band(octave: int) -> str:
    return "above 1/4" if octave == 1 else f"1/{2 ** (octave + 1)} to 1/{2**octave}"


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def write_json(results: dict, path: str | Path) -> None:
    def finite(value):
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(finite(results), indent=1, allow_nan=False) + "\n")


def eval_results(results: dict) -> list[EvalResult]:
    """The means as entries of a model card's `model-index`: one per set, noise level, setting and measure."""
    entries = []
    for name, levels in means(results).items():
        for level, table in levels.items():
            for setting, values in table.items():
                # The Hub tells entries of one data set apart by their config alone.
                config = f"sigma {level}" + (f", {setting}" if len(table) > 1 else "")
                config += "".join(f", {how}" for how in _unusual(results["protocol"]))
                for measure, value in values.items():
                    if not math.isfinite(value):
                        continue
                    decibels = measure.endswith("_dB")
                    decimals = 2 if decibels else MEASURES[measure].decimals if measure in MEASURES else 4
                    entries.append(
                        EvalResult(
                            task_type="image-to-image",
                            task_name="Gaussian denoising",
                            dataset_type=name if "/" in name else name.lower(),
                            dataset_name=f"{name}, {config}",
                            dataset_config=config,
                            metric_type=measure,
                            metric_value=round(value, decimals),
                        )
                    )
    return entries


def _unusual(protocol: dict) -> list[str]:
    """What sets an evaluation apart from one that is blind, in float32, of each image once."""
    unusual = {
        "self-ensemble": protocol.get("self_ensemble"),
        "noise level told": protocol.get("noise_level_told"),
        protocol.get("dtype"): protocol.get("dtype", "float32") != "float32",
    }
    return [name for name, holds in unusual.items() if holds]


def write_model_index(results: dict, path: str | Path) -> None:
    """The `model-index` block of a model card, as YAML: what stands between the dashes at its top."""
    name = Path(results["model"].partition(":")[2] or results["model"]).name
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ModelCardData(model_name=name, eval_results=eval_results(results)).to_yaml() + "\n")


def write_plots(results: dict, folder: str | Path) -> list[Path]:
    """Per set: PSNR against sharpness ratio, and energy and correlation by octave. A panel per noise level.

    Needs the measures `psnr`, `sharpness_ratio` and `octaves`.
    """
    matplotlib = library("matplotlib.figure", "--plots")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sweep, paths = results["protocol"].get("sweep"), []
    for name, levels in means(results).items():
        stem = re.sub(r"[^\w.-]+", "_", name)

        figure = matplotlib.Figure(figsize=(4.2 * len(levels), 3.6), layout="constrained")
        for axis, (level, table) in zip(figure.subplots(1, len(levels), squeeze=False)[0], levels.items(), strict=True):
            _plot_tradeoff(axis, table, sweep)
            axis.set_title(f"{name}, sigma {level}")
        paths.append(folder / f"{stem}_tradeoff.png")
        figure.savefig(paths[-1], dpi=120)

        figure = matplotlib.Figure(figsize=(4.2 * len(levels) + 1.8, 6), layout="constrained")
        panels = figure.subplots(2, len(levels), squeeze=False, sharex=True, sharey="row")
        for column, (level, table) in enumerate(levels.items()):
            _plot_octaves(panels[0][column], panels[1][column], table)
            panels[0][column].set_title(f"{name}, sigma {level}")
        panels[0][0].set_ylabel("predicted over true power (dB)")
        panels[1][0].set_ylabel("correlation with the truth")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
        paths.append(folder / f"{stem}_octaves.png")
        figure.savefig(paths[-1], dpi=120)
    return paths


def _plot_tradeoff(axis, table: dict[str, dict[str, float]], sweep: str | None) -> None:
    ratios = [values["sharpness_ratio"] for values in table.values()]
    decibels = [values["psnr"] for values in table.values()]
    axis.plot(ratios, decibels, "o-" if sweep else "o", markersize=4)
    for index, setting in enumerate(table):
        if len(table) <= 8 or index % 2 == 0:  # stops of a sweep crowd towards its end
            label = setting.removeprefix(f"{sweep} ") if sweep else setting
            axis.annotate(label, (ratios[index], decibels[index]), (4, 3), textcoords="offset points", fontsize=8)
    axis.axvline(1.0, color="gray", linewidth=0.8, linestyle=":")
    axis.set_xlabel(f"sharpness ratio, by weight on {sweep}" if sweep else "sharpness ratio")
    axis.set_ylabel("PSNR (dB)")
    axis.margins(0.12)


def _plot_octaves(energy, correlation, table: dict[str, dict[str, float]]) -> None:
    octaves = octave_numbers(next(iter(table.values())))[::-1]  # coarse to fine, as frequency grows
    colours = library("matplotlib", "--plots").colormaps["viridis"]
    for index, (setting, values) in enumerate(table.items()):
        style = {"color": colours(index / max(len(table), 2)), "marker": "o", "markersize": 3, "label": setting}
        energy.plot([values[f"octave_{octave}_dB"] for octave in octaves], **style)
        correlation.plot([values[f"octave_{octave}_corr"] for octave in octaves], **style)
    energy.axhline(0.0, color="gray", linewidth=0.8, linestyle=":")
    correlation.axhline(1.0, color="gray", linewidth=0.8, linestyle=":")
    correlation.set_xticks(range(len(octaves)), [octave_band(octave) for octave in octaves], fontsize=8)
    correlation.set_xlabel("frequency (cycles per pixel)")
