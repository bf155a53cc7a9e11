"""The `predict` command: which pictures, how to look, where results go."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.paths import CHECKPOINT, there
from pipeline.errors import DescryError

READ, LOOK, WRITE, ARCHIVE = "Reading", "Detecting", "Results", "Archives"
ENGINES = ("local", "ray")
Words = Annotated[list[str] | None, typer.Option(help="Only these.", rich_help_panel=READ)]


def predict(
    source: Annotated[
        Path | None,
        typer.Argument(help="Folder, zip archive, DICOMDIR or file, DICOM or ordinary images."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    checkpoint: Annotated[
        Path, typer.Option(help="model.safetensors of a training run, or model.onnx.")
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Lowest score; default: the checkpoint's operating point.", rich_help_panel=LOOK
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda", rich_help_panel=LOOK)] = "auto",
    batch_size: Annotated[
        int, typer.Option(help="Pictures per call of the model.", rich_help_panel=LOOK)
    ] = 4,
    window: Annotated[
        str,
        typer.Option(
            help="Sliding window: auto (pictures far above the training size), off, or its side "
            "in pixels.",
            rich_help_panel=LOOK,
        ),
    ] = "auto",
    tta: Annotated[
        bool, typer.Option("--tta", help="Mirror images too.", rich_help_panel=LOOK)
    ] = False,
    precision: Annotated[str, typer.Option(help="fp32 or bf16", rich_help_panel=LOOK)] = "fp32",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network first.", rich_help_panel=LOOK)
    ] = False,
    workers: Annotated[
        int,
        typer.Option(help="Decoding processes; -1: as the cores allow.", rich_help_panel=READ),
    ] = -1,
    timeout: Annotated[
        float, typer.Option(help="Seconds a decoder may take.", rich_help_panel=READ)
    ] = 60.0,
    overlays: Annotated[
        str, typer.Option(help="found, all or none", rich_help_panel=WRITE)
    ] = "found",
    pixels: Annotated[
        int,
        typer.Option(
            help="Best pictures that the report opens with all grey values, to window and zoom.",
            rich_help_panel=WRITE,
        ),
    ] = 100,
    sr: Annotated[
        bool,
        typer.Option("--sr", help="A DICOM SR (TID 1500) per image.", rich_help_panel=WRITE),
    ] = False,
    gsps: Annotated[
        bool,
        typer.Option("--gsps", help="A DICOM presentation state too.", rich_help_panel=WRITE),
    ] = False,
    sc: Annotated[
        bool,
        typer.Option("--sc", help="Overlays as DICOM too.", rich_help_panel=WRITE),
    ] = False,
    seg: Annotated[
        bool,
        typer.Option("--seg", help="A DICOM SEG of the masks too.", rich_help_panel=WRITE),
    ] = False,
    copy_patient: Annotated[
        bool,
        typer.Option(
            "--copy-patient",
            help="Copy patient and study into the DICOM results.",
            rich_help_panel=WRITE,
        ),
    ] = False,
    content_date: Annotated[
        str, typer.Option(help="Date of the DICOM results, YYYYMMDD.", rich_help_panel=WRITE)
    ] = "19000101",
    pseudonymise: Annotated[
        bool,
        typer.Option(
            "--pseudonymise",
            help="Keyed hashes for UIDs and paths; the key: --key-file or DESCRY_PSEUDONYM_KEY.",
            rich_help_panel=WRITE,
        ),
    ] = False,
    key_file: Annotated[
        Path | None, typer.Option(help="Holds the key.", rich_help_panel=WRITE)
    ] = None,
    modality: Words = None,
    body_part: Words = None,
    view: Words = None,
    series_description: Annotated[
        str, typer.Option(help="Must contain this.", rich_help_panel=READ)
    ] = "",
    num_shards: Annotated[
        int, typer.Option(help="Machines that share the folder.", rich_help_panel=READ)
    ] = 1,
    shard: Annotated[
        int, typer.Option(help="Which of them this is, from 0.", rich_help_panel=READ)
    ] = 0,
    engine: Annotated[
        str,
        typer.Option(help="local, or ray: the cluster of RAY_ADDRESS.", rich_help_panel=READ),
    ] = "local",
    cpus: Annotated[
        int, typer.Option(help="With --engine ray: cores of a task.", rich_help_panel=READ)
    ] = 2,
    as_json: Annotated[
        bool, typer.Option("--json", help="The counts for programs.", rich_help_panel=WRITE)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what would be read.", rich_help_panel=READ),
    ] = False,
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="URL",
            help="Instead of a folder: https://HOST/PATH (DICOMweb) or dicom(s)://AET@HOST:PORT.",
            rich_help_panel=ARCHIVE,
        ),
    ] = "",
    query: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="With --from, may be repeated: StudyDate=20260101-20260131, Modality=CR, ...",
            rich_help_panel=ARCHIVE,
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(metavar="URL", help="Store DICOM results there too.", rich_help_panel=ARCHIVE),
    ] = "",
    move_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="Have --from dicom(s)://… send objects to this port (C-MOVE, not C-GET).",
            rich_help_panel=ARCHIVE,
        ),
    ] = None,
    archive_timeout: Annotated[
        float,
        typer.Option(help="Seconds an archive may be silent.", rich_help_panel=ARCHIVE),
    ] = 60.0,
    spool_gib: Annotated[
        float, typer.Option(help="Most that --from may fetch, in GiB.", rich_help_panel=ARCHIVE)
    ] = 50.0,
) -> None:
    """Detect in DICOM or ordinary images. Research use only."""
    if (source is None) != bool(origin):
        raise DescryError("predict: give either a folder or --from URL")
    if origin and num_shards > 1:
        raise DescryError("--num-shards: with --from, give each machine its own --query instead")
    if engine not in ENGINES:
        raise DescryError(f"--engine {engine}: must be one of {', '.join(ENGINES)}")
    if engine == "ray" and (origin or to or shard):
        raise DescryError("--engine ray: looks at a folder; leave out --from, --to and --shard")
    if cpus < 1:
        raise DescryError(f"--cpus {cpus}: must be 1 or more")
    if as_json and dry_run:
        raise DescryError("--json is about a run: --dry-run writes lines with tabs between fields")
    if key_file and not pseudonymise:
        raise DescryError("--key-file: goes with --pseudonymise")
    if query and not origin:
        raise DescryError("--query: goes with --from")
    if move_port is not None and not origin:
        raise DescryError("--move-port: goes with --from dicom(s)://AET@HOST:PORT")
    asked = from_address = to_address = None
    if origin or to:
        from pipeline.archive.address import parse_address
        from pipeline.archive.query import parse_query

        asked = parse_query(query or ()) if origin else None
        from_address = parse_address(origin, move_port=move_port) if origin else None
        to_address = parse_address(to) if to else None
    there(source)
    there(checkpoint, what=CHECKPOINT)
    from pipeline.archive.transfer import Transfers
    from pipeline.predict.options import Objects, Options, object_options, read_key
    from pipeline.predict.select import Filters

    objects = {"sr": sr, "gsps": gsps, "sc": sc, "seg": seg}
    kinds = tuple(name for name, wanted in objects.items() if wanted)
    if to and not kinds:
        raise DescryError(f"--to: nothing to store; add {object_options()}")
    archives = Transfers(
        from_address, asked, to_address, timeout=archive_timeout, limit=int(spool_gib * 2**30)
    )
    filters = Filters(
        tuple(modality or ()), tuple(body_part or ()), tuple(view or ()), series_description
    )
    options = Options(
        batch_size=batch_size,
        workers=workers,
        timeout=timeout,
        score_threshold=threshold,
        overlays=overlays,
        pixels=pixels,
        filters=filters,
        window=window,
        tta=tta,
        precision=precision,
        compile=compile_,
        objects=Objects(kinds, copy_patient, content_date),
        key=read_key(key_file) if pseudonymise else None,
        shard=shard,
        num_shards=num_shards,
    )
    from pipeline.stages import predict as stage

    if dry_run:
        listed = stage.survey(source, out, checkpoint, options) if source else archives.matches()
        for line in listed:
            typer.echo(line)
        return
    if engine == "ray":
        from pipeline.stages import cluster

        assert source is not None
        done = cluster.predict(source, out, checkpoint, options, device, cpus)
        counts, code = done.counts, done.exit_code
    else:
        counts, code = stage.predict(source, out, checkpoint, options, device, archives)
    _say(counts, out, as_json)
    raise typer.Exit(code)


def merge(
    shards: Annotated[Path, typer.Argument(help="The --out of `descry predict --num-shards`.")],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    source: Annotated[
        Path | None,
        typer.Option(help="What the shards have read; needed where they share SOP Instance UIDs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The counts for programs.")] = False,
) -> None:
    """Put the shards of a prediction together, as one run would have written them."""
    there(shards, source)
    from pipeline.predict.merge import merge as run
    from pipeline.work.progress import Progress

    with Progress("merge", "files") as progress:
        summary = run(shards, out, source, progress)
    _say(summary.counts, out, as_json)
    raise typer.Exit(summary.exit_code)


def _say(counts: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"out": str(out), "counts": counts}, indent=1))
        return
    shown = ("files", "processed", "skipped", "failed", "frames", "detections")
    typer.echo(", ".join(f"{name} {counts[name]}" for name in shown) + f"; see {out}")
