"""Trains the denoiser with Accelerate.

    accelerate launch -m training.train training/recipes/denoiser_small.yaml --dataset my_photos --output_dir runs/mine

One step: a batch of noisy crops, each with its own setting of the controls, is restored, and every image is charged by
its own weighted loss. The averaged weights (EMA) are validated and saved.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import set_seed

from modeling import ViTUNetConfig, ViTUNetForImageDenoising, ViTUNetImageProcessor
from modeling.degradations import indexed_gaussian_noise
from modeling.metrics import psnr
from training.arguments import TrainingArguments, parse_arguments, write_arguments
from training.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from training.data import ImageStore, TrainingSamples, load_images, validation_images
from training.logs import Averages, Log
from training.loss_sampling import LossSampler
from training.sharpness_cache import with_sharpness_scores

VALIDATION_NOISE_LEVELS = (15, 25, 50)  # of 255
FRESH_NETWORKS = {"small": ViTUNetConfig, "hybrid_vit_base": ViTUNetConfig.hybrid_vit_base}


def build_model(arguments: TrainingArguments) -> ViTUNetForImageDenoising:
    if arguments.model:
        return ViTUNetForImageDenoising.from_pretrained(arguments.model)
    config = FRESH_NETWORKS[arguments.preset](**arguments.model_config)
    if arguments.backbone:
        return ViTUNetForImageDenoising.from_backbone_pretrained(arguments.backbone, config)
    return ViTUNetForImageDenoising(config)


def build_data(
    arguments: TrainingArguments, config: ViTUNetConfig, length: int
) -> tuple[TrainingSamples, list[Tensor]]:
    """-> the samples of the whole run, and the validation images."""
    dataset = load_images(arguments.dataset, arguments.dataset_split, arguments.image_column)
    if len(dataset) <= arguments.validation_size:
        raise ValueError(
            f"{arguments.dataset} holds {len(dataset)} images: lower validation_size={arguments.validation_size}."
        )
    held_out = []
    if arguments.validation_size:
        parts = dataset.train_test_split(arguments.validation_size, seed=arguments.seed)
        dataset = parts["train"]
        held_out = validation_images(ImageStore(parts["test"], arguments.image_column, keep=False))
    sampler = None
    if arguments.sample_losses and config.conditioned_terms:
        sampler = LossSampler(tuple(config.conditioned_terms), config.max_high_frequency_emphasis)
    if not arguments.crop_size:
        dataset = with_sharpness_scores(dataset, arguments.image_column, config.sharpness_window_size)
    samples = TrainingSamples(
        ImageStore(dataset, arguments.image_column, arguments.keep_images),
        seed=arguments.seed,
        crop_size=arguments.crop_size,
        min_noise_level=arguments.min_noise_level / 255,
        max_noise_level=arguments.max_noise_level / 255,
        blind_probability=arguments.blind_probability,
        loss_sampler=sampler,
        length=length,
    )
    return samples, held_out


def learning_rate(step: int, arguments: TrainingArguments) -> float:
    """Linear warm-up, then a cosine to 0: a function of the step alone."""
    if step < arguments.warmup_steps:
        return arguments.learning_rate * (step + 1) / arguments.warmup_steps
    progress = (step - arguments.warmup_steps) / max(arguments.max_steps - arguments.warmup_steps, 1)
    return arguments.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def training_step(model, batch: dict[str, Tensor], config: ViTUNetConfig, channels_last: bool):
    """One forward pass -> the loss to minimise, and the raw terms by name."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    controls = {name: batch[name] for name in ("target_sharpness_scores",) if name in batch}
    if "loss_weights" in batch:
        controls["loss_weights"] = dict(zip(config.conditioned_terms, batch["loss_weights"].unbind(1), strict=True))
        controls["high_frequency_emphasis"] = batch["high_frequency_emphasis"]
    if config.noise_conditioned:
        controls["noise_level"] = batch["noise_level"]
    output = model(
        pixel_values=batch["pixel_values"].to(memory_format=memory_format), labels=batch["labels"], **controls
    )
    return output.loss, output.loss_terms


@torch.no_grad()
def validate(model: ViTUNetForImageDenoising, images: list[Tensor], accelerator: Accelerator) -> dict[str, float]:
    """Mean PSNR in dB at the model's default loss, blind, on noise that never changes. Processes share the images."""
    model.eval()
    results = {}
    for noise_level in VALIDATION_NOISE_LEVELS:
        total = 0.0
        for index in range(accelerator.process_index, len(images), accelerator.num_processes):
            clean = images[index]
            noisy = indexed_gaussian_noise(clean, noise_level / 255, index)
            restored = model(noisy[None].to(accelerator.device)).reconstruction[0].float().cpu()
            total += psnr(restored, clean)
        total = accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum").item()
        results[f"psnr_{noise_level}"] = total / len(images)
    return results


def train(arguments: TrainingArguments) -> None:
    accelerator = Accelerator(
        mixed_precision=arguments.mixed_precision, gradient_accumulation_steps=arguments.gradient_accumulation_steps
    )
    set_seed(arguments.seed)
    output_dir = Path(arguments.output_dir)
    newest = checkpoints(output_dir)[-1:]
    if newest and not arguments.resume:
        raise ValueError(f"{output_dir} holds {newest[0].name}: add --resume true, or name another output_dir.")
    if accelerator.is_main_process:
        write_arguments(arguments, output_dir, resumed=bool(newest))
    accelerator.wait_for_everyone()

    model = build_model(arguments)
    config = model.config
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.train()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(arguments.ema_decay), use_buffers=True)
    ema.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        betas=(0.9, 0.99),
        fused=True,
    )
    model, optimizer = accelerator.prepare(model, optimizer)

    samples_per_step = arguments.batch_size * arguments.gradient_accumulation_steps * accelerator.num_processes
    step, samples_seen, averages = 0, 0, Averages()
    if newest:
        progress = load_checkpoint(accelerator, newest[0], ema)
        step, samples_seen, averages = progress["step"], progress["samples_seen"], Averages(progress["averages"])
    samples, held_out = build_data(arguments, config, samples_seen + (arguments.max_steps - step) * samples_per_step)
    loader = DataLoader(
        samples,
        batch_size=arguments.batch_size,
        sampler=range(samples_seen, len(samples)),
        num_workers=arguments.num_workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # of its own: the global one belongs to dropout, and is restored on resume
    )
    loader = accelerator.prepare_data_loader(loader)

    log = Log(output_dir if accelerator.is_main_process else None, first_step=step)
    bar = tqdm(total=arguments.max_steps, initial=step, disable=not accelerator.is_main_process, unit="step")
    averages.start_clock()
    for batch in loader:
        averages.data_arrived()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments)
        with accelerator.accumulate(model):
            loss, terms = training_step(model, batch, config, arguments.channels_last)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                gradient_norm = accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        averages.add({"loss": loss.detach(), **terms}, len(batch["labels"]))
        if not accelerator.sync_gradients:
            continue

        step += 1
        samples_seen += samples_per_step
        if not accelerator.optimizer_step_was_skipped:  # fp16 skips a step whose gradients overflow
            ema.update_parameters(accelerator.unwrap_model(model))
        bar.update()
        last, stopping = step == arguments.max_steps, step == arguments.stop_at_step
        if step % arguments.logging_steps == 0 or last:
            means = averages.reduced(accelerator)
            rate = optimizer.param_groups[0]["lr"]
            log.write(step=step, **means, learning_rate=rate, gradient_norm=float(gradient_norm))
            bar.set_postfix(loss=f"{means['loss']:.3f}", images_per_s=f"{means['images_per_second']:.1f}")
        with averages.pause():
            if held_out and (step % arguments.validation_steps == 0 or last):
                scores = validate(ema.module, held_out, accelerator)
                log.write(step=step, **scores)
                bar.write(f"step {step}: " + ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items()))
            if step % arguments.checkpoint_steps == 0 or last or stopping:
                progress = {"step": step, "samples_seen": samples_seen, "averages": averages.state()}
                save_checkpoint(accelerator, output_dir, step, ema, progress, arguments.keep_checkpoints)
        if stopping:
            break

    bar.close()
    if accelerator.is_main_process and step == arguments.max_steps:
        ema.module.save_pretrained(output_dir / "model")
        ViTUNetImageProcessor().save_pretrained(output_dir / "model")
        accelerator.print(f"Saved {output_dir / 'model'}")
    accelerator.end_training()


if __name__ == "__main__":
    train(parse_arguments())
