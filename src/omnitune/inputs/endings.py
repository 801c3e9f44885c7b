"""Endings of file names that are media: one list for strings that name a file and for folders of documents."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Endings:
    """Endings of one modality, in lower case.

    Attributes:
        common: A string that ends so names media, and one that is not there is an error.
        rarer: A string that ends so names media where such a file is there, and may be text where none is.
    """

    common: tuple[str, ...]
    rarer: tuple[str, ...]


ENDINGS = {
    "image": Endings(
        common=(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".tif", ".webp"),
        rarer=(".avif", ".jp2", ".j2k", ".jpx", ".tga", ".jfif", ".jpe", ".apng", ".dib", ".ppm", ".pgm", ".pbm",
               ".pnm"),
    ),
    "audio": Endings(
        common=(".mp3", ".wav", ".ogg", ".flac", ".aac", ".m4a", ".opus"),
        rarer=(".aif", ".aiff", ".aifc", ".wma", ".caf", ".oga", ".m4b", ".mka", ".weba", ".w64", ".au", ".snd", ".amr",
               ".mp2", ".mpga"),
    ),
    "video": Endings(
        common=(".mp4", ".avi", ".mov", ".wmv", ".flv", ".mkv", ".webm", ".m4v"),
        rarer=(".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".3gp", ".3g2", ".asf", ".ogv", ".qt", ".f4v", ".m2ts", ".ts",
               ".mts"),
    ),
}  # fmt: skip

UNREAD = (".heic", ".heif", ".jxl", ".svg", ".pdf", ".psd", ".eps", ".ps")
"""Endings of pictures and pages that no decoder here takes: a string that names such a file is an error and no text."""

AMBIGUOUS = (".ts", ".mts")
"""Endings of MPEG transport streams, and of TypeScript; `video.is_transport_stream` tells them apart."""
