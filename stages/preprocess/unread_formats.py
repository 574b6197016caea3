"""Names of formats that Pillow does not read, by a file's bytes or its ending, for errors that say what to do."""

from PIL import Image

EXPORT = "is not read: export it as PNG, TIFF or JPEG"
HEAD = 1024  # bytes that `unread_format` looks at

_RAW = "3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f".split()
_FILM = "a film"
_ENDINGS = {
    **{f".{ending}": f"camera raw ({ending.upper()})" for ending in _RAW},
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".svg", ".svgz"), "SVG"),
    **dict.fromkeys((".mp4", ".mov", ".m4v", ".webm", ".avi", ".mkv"), _FILM),
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".psb": "PSB",
    ".xcf": "GIMP's XCF",
    ".kra": "Krita's KRA",
    ".ora": "OpenRaster",
    ".clip": "Clip Studio's CLIP",
    ".procreate": "Procreate",
    ".ai": "Illustrator's AI",
    ".pdf": "PDF",
    ".eps": "EPS",
    ".ps": "PostScript",
    ".cdr": "CorelDRAW",
    ".afdesign": "Affinity's AFDESIGN",
    ".afphoto": "Affinity's AFPHOTO",
    ".sketch": "Sketch",
    ".fig": "Figma",
    ".dxf": "DXF",
    ".dwg": "DWG",
    ".emf": "EMF",
    ".wmf": "WMF",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".djvu": "DjVu",
}
_MAGIC = (  # (offset, bytes, name)
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")),
    (4, b"ftypcrx ", "camera raw (CR3)"),
    (0, b"II*\0\x10\0\0\0CR", "camera raw (CR2)"),
    (0, b"II\x1a\0\0\0HEAPCCDR", "camera raw (CRW)"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (0, b"IIU\0", "camera raw (RW2)"),
    *((0, magic, "camera raw (ORF)") for magic in (b"IIRO", b"IIRS", b"MMOR")),
    (0, b"FOVb", "camera raw (X3F)"),
    (0, b"\0MRM", "camera raw (MRW)"),
    *((4, b"ftyp" + brand, _FILM) for brand in (b"qt  ", b"isom", b"mp41", b"mp42", b"M4V ", b"avc1", b"iso")),
    (0, b"\x1aE\xdf\xa3", _FILM),
    (8, b"AVI LIST", _FILM),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"8BPS\0\2", "PSB"),
    (0, b"gimp xcf", "GIMP's XCF"),
    (30, b"mimetypeapplication/x-krita", "Krita's KRA"),
    (30, b"mimetypeimage/openraster", "OpenRaster"),
    (0, b"CSFCHUNK", "Clip Studio's CLIP"),
    (8, b"CDR", "CorelDRAW"),
    (0, b"%PDF-", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (40, b" EMF", "EMF"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"AT&TFORM", "DjVu"),
)


def unread_format(head: bytes, ending: str) -> str | None:
    """The name of the format of a file that begins with `head` and is called *`ending`; None if it is unknown."""
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    if b"<svg" in head.lower():
        return "SVG"
    return _ENDINGS.get(ending.lower())


def camera_raw(image: Image.Image, head: bytes, ending: str) -> str | None:
    """The name of the raw format of an opened file that is a TIFF to Pillow: it would read the small preview alone."""
    if image.format != "TIFF":
        return None
    name = unread_format(head, ending) or ""
    if name.startswith("camera raw"):
        return name
    if 0xC612 in image.tag_v2:  # DNGVersion
        return "camera raw (DNG)"
    # The first picture says that it is a smaller version of one that lies in another place: SubIFDs.
    return "camera raw" if image.tag_v2.get(0xFE, 0) & 1 and 0x14A in image.tag_v2 else None
