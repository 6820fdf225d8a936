"""`imagetok diagnose`."""

from pathlib import Path

import click

from cli.options import (
    check_out_folder,
    choose_device,
    data_option,
    device_option,
    say,
    show_table,
    tokenizer_option,
)


@click.command()
@tokenizer_option()
@data_option()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write diagnosis.json and report.html there.",
)
@device_option()
def diagnose(tokenizer: str, data: str, out: Path | None, device: str | None) -> None:
    """Say how a codebook is used, whether that is well, and what to try if not.

    Every image of --data is encoded; a tokenizer in its run folder has its training log read, too.

    Example: imagetok diagnose --tokenizer runs/digits-edvae/tokenizer --data digits:test
    """
    from imagetok.analysis.diagnosis import as_json, told, write_page
    from imagetok.analysis.diagnosis import diagnose as run_diagnosis
    from imagetok.data import describe, open_images, parse_spec
    from imagetok.durable import write_json
    from imagetok.evaluation.records import identity_of
    from imagetok.tokenizers import Tokenizer

    check_out_folder(out)
    model = Tokenizer.from_pretrained(tokenizer).to(choose_device(device))
    config, split = parse_spec(data)
    dataset = open_images(config, split, model.image)
    found = run_diagnosis(model, dataset, tokenizer)
    source = describe(config, split)
    for level, verdict in enumerate(found.verdicts):
        say(f"{tokenizer} on {source}" + (f", level {level}" if len(found.levels) > 1 else ""))
        show_table(told(found, level))
        say(f"verdict: {verdict.state}")
        for sentence in verdict.sentences:
            say(f"  {sentence}")
    if out is not None:
        which = {"tokenizer": model.fingerprint, "origin": model.origin, "data": source}
        which["identity"] = identity_of("codebook", dataset, len(dataset), ())
        write_json(out / "diagnosis.json", {**which, "levels": as_json(found)})
        write_page(out / "report.html", f"Codebook of {tokenizer}", found)
        say(f"{out / 'report.html'}")
