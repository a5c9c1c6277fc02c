"""Trains the denoiser with Accelerate.

    accelerate launch -m training.train training/recipes/finetune.yaml --dataset my_photos --output_dir runs/mine
    python -m training.train training/recipes/denoiser_small.yaml --dataset my_photos    # on a CPU: with all its cores

One step: a batch of noisy crops, each with its own setting of the controls, is restored, and every image is charged by
its own weighted loss. The averaged weights (EMA) are validated and saved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm
from transformers import set_seed

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.losses import grid_imprint
from modeling.metrics import psnr
from training.arguments import TrainingArguments, checked_arguments, parse_arguments, write_arguments
from training.batches import Data
from training.checkpoints import checkpoints, load_checkpoint, save_checkpoint, save_model
from training.graphs import GraphedStep, set_learning_rate
from training.hub import check_can_publish, push_to_hub
from training.interruption import Interruption
from training.logs import Averages, Log
from training.optimizers import build_optimizer
from training.strips import save_strip
from training.teacher import Teacher

VALIDATION_NOISE_LEVELS = (15, 25, 50)  # of 255
GRID_FLOOR = 1e-7  # of `grid_imprint`: what chance leaves of it in a crop of 96x96 pixels
FRESH_NETWORKS = {"small": ViTUNetConfig, "hybrid_vit_base": ViTUNetConfig.hybrid_vit_base}


def build_model(arguments: TrainingArguments, device: torch.device) -> ViTUNetForImageDenoising:
    """The network to train, on the CPU yet; it is to work on `device`."""
    defaults = {"loss_weights": arguments.loss_weights, "high_frequency_emphasis": arguments.high_frequency_emphasis}
    defaults = {name: value for name, value in defaults.items() if value is not None}
    if arguments.model:
        model = ViTUNetForImageDenoising.from_pretrained(arguments.model, dtype=torch.float32, **defaults)
    else:
        config = FRESH_NETWORKS[arguments.preset](**{**arguments.model_config, **defaults})
        if arguments.backbone:
            model = ViTUNetForImageDenoising.from_backbone_pretrained(arguments.backbone, config)
        else:
            model = ViTUNetForImageDenoising(config)
    model.config.one_loss = bool(model.config.conditioned_terms) and not arguments.sample_losses
    if arguments.trained_parts:
        freeze_all_but(model, arguments.trained_parts)
    if device.type == "cpu" and arguments.mixed_precision == "bf16":
        # PyTorch's own attention takes seven times as long on its way back, in bf16 on a CPU.
        model.set_attn_implementation("eager")
    return model


def build_teacher(arguments: TrainingArguments, config: ViTUNetConfig, device: torch.device) -> Teacher:
    model = ViTUNetForImageDenoising.from_pretrained(arguments.teacher, dtype=torch.float32)
    teacher = Teacher(model.to(device, memory_format=torch.channels_last), arguments.teacher_share)
    teacher.check_learner(config)
    return teacher


def freeze_all_but(model: ViTUNetForImageDenoising, parts: list[str]) -> None:
    """Only the named parts of the network learn (`condition`, `decoder.stages.0`, ...)."""
    names = [name for name, _ in model.named_parameters()]
    prefixes = tuple(f"{part}." for part in parts)
    unknown = [prefix[:-1] for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
    if unknown:
        known = list(dict(model.named_children()))
        raise ValueError(f"trained_parts names {unknown}: the network has {known}, and parts of these.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.startswith(prefixes))


def compile_parts(model: ViTUNetForImageDenoising) -> None:
    """What lies between the parts looks at values, which would cut a graph of the whole."""
    import torch._inductor.config  # takes seconds, and few compile

    # Torch 2.11's analysis of tilings fails on the ViT's overlapping windows, of crops that hold three in a row.
    torch._inductor.config.triton.coalesce_tiling_analysis = False
    for part in model.children():
        part.compile()
    model.criterion.compile()


def learning_rate(step: int, arguments: TrainingArguments) -> float:
    """Linear warm-up, then a cosine to 0: a function of the step alone."""
    if step < arguments.warmup_steps:
        return arguments.learning_rate * (step + 1) / arguments.warmup_steps
    progress = (step - arguments.warmup_steps) / max(arguments.max_steps - arguments.warmup_steps, 1)
    return arguments.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay(step: int, arguments: TrainingArguments) -> float:
    """Rises to its final value, so that the average of a short run, or of an early step, forgets how it began."""
    return min(arguments.ema_decay, (1 + step) / (10 + step))


class Average:
    """Averages weights over the steps. (`AveragedModel` asks the device for its count at every step.)

    Args:
        average: the network that holds the averages.
        model: the one that learns.
    """

    def __init__(self, average: ViTUNetForImageDenoising, model: ViTUNetForImageDenoising) -> None:
        # Listed once: a walk through all modules takes a slow CPU a good part of a fast GPU's step.
        self.kept, self.learning = list(average.parameters()), list(model.parameters())
        self.buffers = list(zip(average.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Moves the averages towards the weights as they are."""
        get_ema_multi_avg_fn(decay)(self.kept, self.learning, None)
        for kept, buffer in self.buffers:
            kept.copy_(buffer)


def training_step(
    model,
    batch: dict[str, Tensor],
    config: ViTUNetConfig,
    channels_last: bool,
    grid_penalty: float = 0.0,
    level_gradients: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward pass -> the loss to minimise, and the raw terms by name.

    `level_gradients` gives the gradient of every image's restoration one length, so that no loss and no noise level
    pulls harder than another: what each image is pulled towards stays the same.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    controls = {}
    if "loss_weights" in batch:
        weights = batch["loss_weights"].split(1, dim=1)
        controls["loss_weights"] = dict(zip(config.conditioned_terms, weights, strict=True))
        controls["high_frequency_emphasis"] = batch["high_frequency_emphasis"]
    known = {"noise_level": batch["noise_level"]} if config.noise_conditioned else {}
    output = model(pixel_values=batch["pixel_values"].to(memory_format=memory_format), **controls, **known)

    restored = output.reconstruction.float()
    judged = restored.detach().requires_grad_() if level_gradients else restored
    network = getattr(model, "module", model)  # without what several processes wrap it in
    scores = batch.get("target_sharpness_scores")
    loss, terms = network.weighted_loss(judged, batch["labels"], **controls, target_sharpness_scores=scores)
    if grid_penalty:
        imprint = grid_imprint(judged, batch["labels"], max(config.pixel_unshuffle, 2))
        loss = loss + grid_penalty * torch.log1p(imprint / GRID_FLOOR).mean()
        terms = {**terms, "grid_imprint": imprint.detach().mean()}
    if level_gradients:
        (gradient,) = torch.autograd.grad(loss, judged)
        lengths = gradient.flatten(1).norm(dim=1)[:, None, None, None]
        pull = (restored * gradient / (len(gradient) * lengths.clamp_min(1e-12))).sum()
        loss = loss.detach() + (pull - pull.detach())  # the value of one, the gradient of the other
    return loss, terms


def step_function(
    accelerator: Accelerator,
    model,
    optimizer,
    config: ViTUNetConfig,
    arguments: TrainingArguments,
    teacher: Teacher | None = None,
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Forward, backward and optimiser: a batch -> loss, raw terms and, after the last part of a step, gradient norm."""

    def step_on(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        settings = arguments.channels_last, arguments.grid_penalty, arguments.level_gradients
        with accelerator.accumulate(model):
            if teacher:
                with accelerator.autocast():
                    batch = {**batch, "labels": teacher.labels(batch)}
            loss, terms = training_step(model, batch, config, *settings)
            results = {"loss": loss.detach(), **terms}
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                results["gradient_norm"] = accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        return results

    return GraphedStep(step_on, optimizer, accelerator.device) if arguments.cuda_graph else step_on


@torch.no_grad()
def validate(
    model: ViTUNetForImageDenoising, images: list[tuple[Tensor, Tensor | None]], accelerator: Accelerator
) -> dict[str, float]:
    """Mean PSNR in dB at the model's default loss, blind, on noise that never changes. Processes share the images.

    Of clean images at three noise levels; of pairs on their own noise.
    """
    levels = VALIDATION_NOISE_LEVELS if images[0][1] is None else (None,)
    results = {}
    for level in levels:
        total = 0.0
        for index in range(accelerator.process_index, len(images), accelerator.num_processes):
            clean, noisy = images[index]
            noisy = indexed_gaussian_noise(clean, level / 255, index) if noisy is None else noisy
            restored = model(noisy[None].to(accelerator.device)).reconstruction[0].float().cpu()
            total += psnr(restored, clean)
        total = accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum").item()
        results["psnr" if level is None else f"psnr_{level}"] = total / len(images)
    return results


@torch.no_grad()
def slider_response(model: ViTUNetForImageDenoising, clean: Tensor) -> float:
    """How far the least of the sliders moves a picture: root mean square in 255ths, from none of its term to it alone.

    `clean` is (3, H, W) in [0, 1]; noise of sigma 25 is added. A network can lose its sliders without losing a decibel.
    """
    encoded = model.encode(indexed_gaussian_noise(clean, 25 / 255, 0)[None].to(model.device))
    first, *others = (model.decode(encoded, {term: 1.0}) for term in model.config.steerable_terms)
    return min(255 * (other - first).square().mean().sqrt().item() for other in others)


def build_accelerator(arguments: TrainingArguments) -> Accelerator:
    return Accelerator(
        mixed_precision=arguments.mixed_precision,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with=None if arguments.log_with == "none" else arguments.log_with,
        project_config=ProjectConfiguration(project_dir=arguments.output_dir, logging_dir=arguments.output_dir),
    )


def train(arguments: TrainingArguments) -> None:
    output_dir = Path(arguments.output_dir)
    newest = checkpoints(output_dir)[-1:]
    if newest and not arguments.resume:
        raise ValueError(f"{output_dir} holds {newest[0].name}: add --resume true, or name another output_dir.")
    if arguments.push_to_hub:
        check_can_publish(arguments.hub_model_id)  # now, and not at the end of a long run
    accelerator = build_accelerator(arguments)
    if arguments.cuda_graph and (accelerator.device.type != "cuda" or accelerator.num_processes > 1):
        raise ValueError(
            f"cuda_graph needs one process on a CUDA device; here are {accelerator.num_processes} on "
            f"{accelerator.device}: start it with `accelerate launch --num_processes 1`, or set it to false."
        )
    set_seed(arguments.seed)
    torch.backends.cudnn.benchmark = bool(arguments.crop_size)  # crops of one size: try once which kernels are fast
    checked_arguments(arguments, output_dir, resumed=bool(newest))  # by every process, so that none waits for one
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_arguments(arguments, output_dir, resumed=bool(newest))
    accelerator.wait_for_everyone()
    if arguments.log_with != "none":
        accelerator.init_trackers("logs", config=arguments.flat())

    model = build_model(arguments, accelerator.device)
    torch.manual_seed(arguments.seed + accelerator.process_index)  # one network, and dropout of its own in each process
    config = model.config
    if arguments.cuda_graph and not config.conditioned_terms:
        raise ValueError("cuda_graph needs a network with conditioned_terms, whose controls come with the batch.")
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.train()
    ema = copy.deepcopy(model).to(accelerator.device).eval().requires_grad_(False)
    if arguments.compile:
        compile_parts(model)
    optimizer = build_optimizer(arguments.optimizer, model, arguments.learning_rate, arguments.weight_decay)
    model, optimizer = accelerator.prepare(model, optimizer)

    step, averages = 0, Averages()
    if newest:
        progress = load_checkpoint(accelerator, newest[0], ema)
        step, averages = progress["step"], Averages(progress["averages"])
        if step > arguments.max_steps:
            raise ValueError(f"{newest[0]} is past max_steps={arguments.max_steps}: raise it, or take its model.")
    samples_per_step = arguments.batch_size * arguments.gradient_accumulation_steps * accelerator.num_processes
    if arguments.grid_penalty and config.loss_balance != "log":
        raise ValueError(
            f"grid_penalty={arguments.grid_penalty} is a logarithm beside logarithms, and would drown the plain sum of "
            "this network's loss_balance: set it to 0."
        )
    data = Data(arguments, config, samples_per_step)
    if newest and (before := progress.get("images", data.images)) != data.images:
        raise ValueError(
            f"{arguments.dataset} holds {data.images} images and held {before} when {output_dir} began, which would "
            "mix those held out with the others: give it the same ones, or begin another run from its --model."
        )
    batches = data.batches(accelerator, step)

    teacher = build_teacher(arguments, config, accelerator.device) if arguments.teacher else None
    step_on = step_function(accelerator, model, optimizer, config, arguments, teacher)
    average = Average(ema, accelerator.unwrap_model(model))
    log = Log(output_dir, accelerator, first_step=step)
    bar = tqdm(total=arguments.max_steps, initial=step, disable=not accelerator.is_main_process, unit="step")
    averages.start_clock()
    with bar, Interruption(accelerator) as interruption:  # a failure closes the bar, and is told below it
        for batch in batches:
            averages.data_arrived()
            set_learning_rate(optimizer, learning_rate(step, arguments))
            results = dict(step_on(batch))
            gradient_norm = results.pop("gradient_norm", None)
            averages.add(results, len(batch["labels"]))
            if not accelerator.sync_gradients:
                continue

            step += 1
            average.update(ema_decay(step, arguments))
            bar.update()
            last = step == arguments.max_steps
            stopping = step == arguments.stop_at_step or interruption.asked_for(step)
            if step % arguments.logging_steps == 0 or last:
                means = averages.reduced(accelerator)
                rate = float(optimizer.param_groups[0]["lr"])
                log.write(
                    step, **means, learning_rate=rate, gradient_norm=float(gradient_norm), unreadable=data.unreadable
                )
                bar.set_postfix(
                    loss=f"{means['loss']:.3f}",
                    dB=f"{-10 * math.log10(max(means['pixel'], 1e-12)):.2f}",
                    images_per_s=f"{means['images_per_second']:.1f}",
                )
            with averages.pause():
                if data.held_out and (step % arguments.validation_steps == 0 or last):
                    scores = validate(ema, data.held_out, accelerator)
                    heard = len(config.steerable_terms) > 1
                    response = {"slider_response": slider_response(ema, data.held_out[0][0])} if heard else {}
                    log.write(step, **scores, **response)
                    found = ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items())
                    if accelerator.is_main_process:
                        bar.write(f"step {step}: {found}")
                strip_due = arguments.strip_steps and (step % arguments.strip_steps == 0 or last)
                if data.held_out and strip_due and accelerator.is_main_process:
                    path = output_dir / "strips" / f"step-{step:07d}.png"
                    save_strip(ema, *data.held_out[0], path)
                if step % arguments.checkpoint_steps == 0 or last or stopping:
                    progress = {
                        "step": step,
                        "processes": accelerator.num_processes,
                        "images": data.images,
                        "averages": averages.state(accelerator),
                    }
                    save_checkpoint(accelerator, output_dir, step, ema, progress, arguments.keep_checkpoints)
            if stopping:
                break

    if step == arguments.max_steps:
        if accelerator.is_main_process:
            save_model(ema, output_dir / "model")
            accelerator.print(f"Saved {output_dir / 'model'}")
            if arguments.push_to_hub:
                accelerator.print(f"Published {push_to_hub(output_dir, arguments)}")
    else:
        accelerator.print(f"Stopped after step {step}. The same command with --resume true goes on from there.")
    accelerator.end_training()


if __name__ == "__main__":
    train(parse_arguments())
