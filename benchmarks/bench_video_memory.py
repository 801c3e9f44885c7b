"""Peak memory of encoding a clip of 1080p at 16 frames, as the clip grows from 10 seconds to 10 minutes.

Promise: within 300 MB of each other. Sentence Transformers reads files through torchcodec alone and of a decoder takes
every frame, 90 GB here, so it has no number.

    python benchmarks/bench_video_memory.py [--quick]
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

from support import make_qwen3_vl, report, run

FPS = 24
FRAMES = 16
ALLOWED = 300e6


def drawn(path: Path, seconds: int = 10) -> Path:
    """A clip of a bright bar that moves over noise."""
    import av
    import numpy as np

    still = np.random.default_rng(0).integers(0, 120, (1080, 1920, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 1920, 1080, "yuv420p", 4_000_000
        for number in range(seconds * FPS):
            picture = still.copy()
            picture[:, (number * 8) % 1900 :][:, :60] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeated(source: Path, path: Path, times: int) -> Path:
    """The same clip some times over, without encoding it anew."""
    import av

    with av.open(str(path), "w") as container:
        stream = None
        for turn in range(times):
            with av.open(str(source)) as short:
                stream = stream or container.add_stream_from_template(short.streams.video[0])
                step = int(short.streams.video[0].duration)
                for packet in short.demux(video=0):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + turn * step, packet.dts + turn * step
                    packet.stream = stream
                    container.mux(packet)
    return path


def worker(clip: str, checkpoint: str) -> None:
    from omnitune import SentenceTransformer

    model = SentenceTransformer(checkpoint, device="cpu")
    size = {"shortest_edge": 32 * 32, "longest_edge": FRAMES * 224 * 224}
    asked = {"video": {"num_frames": FRAMES, "size": size}}
    vector = model.encode(clip, processing_kwargs=asked)
    print(f'{{"peak": {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}, "norm": {float(vector @ vector)}}}')


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="2 minutes instead of 10")
    parser.add_argument("--clip")
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args()
    if arguments.clip:
        worker(arguments.clip, arguments.checkpoint)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_qwen3_vl(Path(folder) / "model")
        short = drawn(Path(folder) / "short.mp4")
        long = repeated(short, Path(folder) / "long.mp4", 12 if arguments.quick else 60)
        peaks = [run(sys.argv[0], clip=clip, checkpoint=checkpoint)["peak"] for clip in (short, long)]
        megabytes = {clip.stem: round(clip.stat().st_size / 1e6) for clip in (short, long)}
    assert abs(peaks[1] - peaks[0]) < ALLOWED, f"peaks differ: {peaks}"
    report(
        f"peak memory of encoding {FRAMES} frames of 1080p, {2 if arguments.quick else 10} minutes less 10 seconds",
        [(peaks[1] - peaks[0]) / 1e6],
        "MB",
        rival_value=None,
        peak_megabytes=[round(peak / 1e6) for peak in peaks],
        file_megabytes=megabytes,
    )


if __name__ == "__main__":
    main()
