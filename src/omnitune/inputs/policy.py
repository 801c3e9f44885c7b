"""Limits on media that inputs refer to: a model's inputs may come from strangers."""

from dataclasses import dataclass

__all__ = ["DEFAULT_POLICY", "MediaPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPolicy:
    """Limits on media: which may be read, and how much of it.

    Attributes:
        max_bytes: Largest image and largest download of any kind, in bytes.
        max_clip_bytes: Largest recording or clip in a file or in memory, in bytes.
        max_seconds: Longest recording or clip, checked before and while it is decoded, so a stream without end stops.
        max_sampling_rate: Most samples a second that a recording, or the model that asks for it, may have: in a file's
            header, beside an array or in a processor's configuration.
        max_frames: Most frames of one clip that are decoded, each at its full size.
        max_pixels: Largest image or frame, in pixels (width times height), checked before it is decoded. Pillow itself
            warns above 89.5 million pixels and refuses twice as many.
        timeout: Seconds that one download may take, from connecting to its last byte.
        allow_local_files: Strings and paths may name files of this machine. A server says False.
        allow_urls: http and https addresses may be fetched.
        allow_private_addresses: Addresses may lead into private networks or to this machine.
        allowed_hosts: Only these hosts, or None for any.
        max_redirects: Redirects followed, each checked like the first address.
        isolate: Encoded media are decoded in a process of its own, so that no file can end this one. A server
            of strangers' files says True.
        decode_memory: Bytes that this process may take to decode an item (Linux).
        decode_seconds: Seconds that it may take.

    Example:
        >>> strict = SentenceTransformer(modules=[modules.TextReader(), *model])
        >>> strict.media_policy = MediaPolicy(allow_local_files=False, allow_urls=False)
        >>> strict.encode({"image": "https://example.com/letter.png"})
        Traceback (most recent call last):
            ...
        omnitune.errors.MediaRefusedError: ...
    """

    max_bytes: int = 64 * 2**20
    max_clip_bytes: int = 2**30
    max_seconds: float = 3600.0
    max_sampling_rate: int = 768_000
    max_frames: int = 1024
    max_pixels: int = 89_000_000
    timeout: float = 20.0
    allow_local_files: bool = True
    allow_urls: bool = True
    allow_private_addresses: bool = False
    allowed_hosts: frozenset[str] | None = None
    max_redirects: int = 3
    isolate: bool = False
    decode_memory: int = 4 * 2**30
    decode_seconds: float = 60.0


DEFAULT_POLICY = MediaPolicy()
