"""What the identity losses cost: `python benchmarks/identity_loss.py [--model tiny] [--batch 4] [--device cpu]`.

Trains a model on drawn people in one process, alternating a plain step, one with the identity losses on a window of one latent,
the same where the faces alone are decoded (`--margin`), one whose target is the real video, and one whose window is cut out of the whole
decoded video. Prints medians of at least nine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from dataclasses import replace


def main() -> None:
    """Print the seconds of a step each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--margin", type=int, default=0, help="latents about faces, where they alone are decoded")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    from likeness.faces import faces_folder
    from likeness.faces.pack import FacePack
    from likeness.faces.torch_recogniser import align_faces
    from likeness.generate.studio import quieten_libraries
    from likeness.method import IdentityLoss
    from likeness.pipeline import LikenessPipeline
    from likeness.train.identity import IdentityObjective
    from likeness.train.objective import Batch, Objective, sample_generators
    from likeness.world import clip_of, draw

    quieten_libraries()
    device = torch.device(arguments.device)
    pipeline = LikenessPipeline.from_pretrained(arguments.model, torch_dtype=torch.float32, device=arguments.device)
    backbone, size = pipeline.backbone, pipeline.config
    transformer = pipeline.transformer.requires_grad_(True).train()

    class WholeVideo:
        """The backbone, decoding everything with gradient for a window."""

        spec = backbone.spec

        def decode_window(self, latents, start: int, length: int):
            stride = self.spec.temporal_stride
            return backbone.decode(latents)[:, :, max(0, stride * (start - 1) + 1) : stride * (start + length - 1) + 1]

    drawing = draw(
        [clip_of(person, 0) for person in range(arguments.batch)],
        height=size.default_height,
        width=size.default_width,
        num_frames=size.default_num_frames,
    )
    pixels = torch.as_tensor(drawing.pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # [B, 3, F, H, W]
    keypoints = torch.as_tensor(drawing.keypoints).permute(0, 2, 1, 3, 4).float()  # [B, 1, F, 5, 2]
    pack = FacePack.load(faces_folder())
    identity, of_faces, of_video = (
        IdentityObjective.from_pack(pack, loss, device=device, margin=margin)
        for loss, margin in (
            (IdentityLoss(), None),
            (IdentityLoss(), arguments.margin),
            (IdentityLoss(target="video"), None),
        )
    )
    with torch.no_grad():
        embeddings = identity.recogniser(align_faces(pixels[:, :, 0].to(device), keypoints[:, 0, 0].to(device)))
        latents = backbone.encode_video(pixels.to(device))
        text = pipeline.encode_prompts(["a person"]).expand(arguments.batch, -1, -1)
    batch = Batch(latents, (pixels[:, :, :1],), text, keypoints, embeddings[:, None]).to(device)

    def on_the_whole_video(_, *given, **more):
        return identity(WholeVideo(), *given, **more)  # pyright: ignore[reportArgumentType]

    auxiliaries = {
        "plain": None, "window": identity, "faces": of_faces, "real target": of_video, "whole video": on_the_whole_video,
    }  # fmt: skip
    method = replace(pipeline.method, reference_dropout=0.0)
    empty = pipeline.encode_prompts([""])
    objectives = {way: Objective(backbone, method, empty, auxiliary=item) for way, item in auxiliaries.items()}
    optimizer = torch.optim.AdamW(transformer.parameters(), 1e-6)
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {way: [] for way in objectives}
    for number in range(arguments.rounds + 1):
        for way in objectives:
            begun = clock()
            objectives[way](batch, sample_generators(0, number, 0, arguments.batch))["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds[way].append(clock() - begun)
    plain = statistics.median(seconds["plain"])
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} thread(s), batch {arguments.batch}")
    for way in objectives:
        median = statistics.median(seconds[way])
        print(
            f"{way:12} {median:.3f} s a step ({min(seconds[way]):.3f} .. {max(seconds[way]):.3f}), {median / plain:.2f} x"
        )


if __name__ == "__main__":
    main()
