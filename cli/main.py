"""`imagetok`: the command group, and the conversion of errors to messages and exit codes.

Nothing heavy is imported here: the module of a command is imported when the command runs.
"""

import errno
import io
import keyword
import logging
import os
import signal
import sys
import threading
import traceback
from importlib import import_module

import click

from cli.usage import explain_usage, remember_arguments
from imagetok.errors import ConfigError, ImagetokError
from imagetok.io.url_secrets import without_secrets
from imagetok.suggestions import did_you_mean
from imagetok.version import __version__

COMMANDS = {
    "quickstart": ("cli.quickstart", "Run every step on included data, in minutes on a CPU."),
    "init": ("cli.init", "Look through a folder of pictures and write configs for it."),
    "configs": ("cli.configs", "List the included configs, or print or copy one."),
    "train": ("cli.train", "Train the tokenizer or prior that a config describes."),
    "encode": ("cli.encode_decode", "Encode images to a code dataset (shards)."),
    "decode": ("cli.encode_decode", "Decode a code dataset to images."),
    "merge": ("cli.interchange", "Join code datasets of one tokenizer."),
    "export": ("cli.interchange", "Write a code dataset as parquet or .npy."),
    "import": ("cli.interchange", "Create a code dataset from codes in parquet or .npy."),
    "convert": ("cli.convert", "Convert a tokenizer of another program, such as LlamaGen's."),
    "reconstruct": ("cli.reconstruct", "Show images and their reconstructions by a tokenizer."),
    "sample": ("cli.sample", "Draw new images from a prior."),
    "complete": ("cli.sample", "Complete images from their upper rows of codes with a prior."),
    "evaluate": ("cli.evaluate", "Measure reconstructions or samples on a data split."),
    "uncertainty": ("cli.uncertainty", "Test whether encoder uncertainty predicts error."),
    "diagnose": ("cli.diagnose", "Measure codebook utilisation, and detect collapse."),
    "explore": ("cli.explore", "Explore the latent space: neighbours, interpolation, classes."),
    "report": ("cli.report", "Write an HTML report of one run or several."),
    "demo": ("cli.demo", "Serve a web page to reconstruct, edit codes, sample, complete."),
    "compare": ("cli.compare", "Train several tokenizers with equal settings and compare them."),
    "reproduce": ("cli.reproduce", "Make a table or figure of a paper, beside its numbers."),
    "push": ("cli.push", "Upload a tokenizer or prior to the Hugging Face Hub."),
    "verify": ("cli.inspect", "Check a tokenizer, prior, run, comparison or code dataset."),
    "inspect": ("cli.inspect", "Describe a tokenizer, prior, run, comparison or code dataset."),
    "info": ("cli.info", "Show versions, devices, threads and caches, for a bug report."),
}
"""Command name -> (its module, its one-line help); the function has the name of the command."""

ISSUES = "https://github.com/imagetok/imagetok/issues"
_ENVIRONMENT = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some space, or choose a folder on another disk",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "choose a folder with write permission",
    errno.EEXIST: "choose a path where no file exists",
    errno.ENOTDIR: "choose a path that is not below a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "choose a path that is not a folder",
    errno.EPERM: "choose a folder with write permission",
    errno.EIO: "the disk, or the connection to it, has failed; copy the data to another disk",
    errno.ELOOP: "the symbolic link refers to itself; remove it",
    errno.EFBIG: "the file is too large; check `ulimit -f`, or choose another disk",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine; close other programs",
}


class LazyGroup(click.Group):
    """A command group that lists and completes commands without importing their modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name  # import
        return getattr(import_module(COMMANDS[cmd_name][0]), name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing and args[0][:1] != "-":
            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"No such command {args[0]!r}{hint}", ctx)
        remember_arguments(ctx, args[1:])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--stop-with-parent",
    is_flag=True,
    help="Stop, as by SIGTERM, when standard input ends (for a program that starts this one).",
)
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE|MODULE",
    help="Load custom quantizers, data sources, ... from a Python file or an importable module.",
)
@click.version_option(__version__, prog_name="imagetok")
def imagetok(debug: bool, stop_with_parent: bool, plugins: tuple[str, ...]) -> None:
    """Train and use image tokenizers, code datasets and autoregressive priors.

    Example: imagetok quickstart
    """
    del debug  # read where errors become messages
    if stop_with_parent:
        _stop_with_standard_input()
    if plugins:
        from imagetok.plugins.loading import load_plugin

        for plugin in plugins:
            load_plugin(plugin)


def _stop_with_standard_input() -> None:
    """Send this process SIGTERM when its standard input ends.

    The parent process passes a pipe as standard input and never writes to it. The kernel closes the
    pipe when the parent ends, however it ends.
    """

    def wait() -> None:
        # Not sys.stdin.read(): forked loader workers would inherit its locked lock.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command and exit with its code (see docs/reference/exit-codes.md)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # OpenMP reads this when torch is imported. Threads that spin while waiting for each other make
    # a step ten times slower if other programs use the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _set_up_logging()
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        _check_text(arguments)
        result = imagetok.main(arguments, prog_name="imagetok", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stopped:
        return stopped.exit_code
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.option_name == "--plugin":
            error = click.UsageError("--plugin must come before the command: imagetok --plugin ...")
        if isinstance(error, click.UsageError):
            error = explain_usage(error)
        shown = io.StringIO()
        error.show(shown)
        click.echo(without_secrets(shown.getvalue()), err=True, nl=False)
        return error.exit_code
    except BrokenPipeError:
        return _without_reader()
    except BaseException as error:  # also SystemExit of a plugin's code
        if isinstance(error, SystemExit) and _has_no_reader():
            return _without_reader()  # click exits by itself
        if isinstance(error, SystemExit) and "_IMAGETOK_COMPLETE" in os.environ:
            return int(error.code or 0)  # click's end of a completion
        message, code = _explain(error)
        if code == 1 or "--debug" in arguments:
            traceback.print_exc()
        click.echo(f"error: {message}", err=True)
        return code


def _has_no_reader() -> bool:
    """Return whether what read standard output has ended; click has then replaced the stream."""
    return "PacifyFlush" in type(sys.stdout).__name__


def _without_reader() -> int:
    """End in silence, because what reads standard output, such as `head`, has ended."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    return 0


def _check_text(arguments: list[str]) -> None:
    """Raise ConfigError for arguments that are no UTF-8, which JSON files could not store."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise ConfigError(
                f"{ascii(argument)[1:-1]}: expected text in UTF-8, found other bytes; rename the "
                "file or folder, or use a symbolic link with a UTF-8 name"
            )


def _explain(error: BaseException) -> tuple[str, int]:
    """Return the message for the user and the exit code; 1 means a bug in imagetok."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "stopped immediately; completed files are on disk", 130
    if isinstance(error, ImagetokError):
        return str(error), error.exit_code
    message = _environment_message(error)
    if message is not None:
        return without_secrets(message), 5
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object!a}: expected a name in UTF-8, found other bytes; rename the file", 3
    if "imagetok.plugins.registry" in sys.modules:
        from imagetok.plugins.registry import blamed_plugin

        if plugin := blamed_plugin(error):
            return f"{plugin}, a plugin, raised {type(error).__name__}: {error}; see above", 1
    return (
        "this is a bug in imagetok; please report it with the lines above and what "
        f"`imagetok info` prints: {ISSUES}",
        1,
    )


def _environment_message(error: BaseException) -> str | None:
    """Return the message for an error of the environment (disk, memory, processes), else None."""
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; {_ENVIRONMENT[error.errno]}"
    no_memory = ("out of memory", "can't allocate memory")
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in no_memory):
        return "out of memory; use a smaller train.batch_size or --batch-size, or a smaller model"
    if "too many open files" in str(error).lower():  # a message of torch
        return f"too many files are open; {_ENVIRONMENT[errno.EMFILE].partition('; ')[2]}"
    if "DataLoader timed out" in str(error):
        return (
            "a loader worker returned no batch for 300 s; try train.workers=0, then --resume, or "
            "--workers 0"
        )
    if "DataLoader worker" in str(error):
        return (
            "a loader worker was killed, perhaps out of memory; try fewer, such as train.workers=0 "
            "or --workers 0"
        )
    if any(text in str(error) for text in ("closed by peer", "reset by peer")):
        return "another process of this run has ended; see its error message"
    return None


def _set_up_logging() -> None:
    """Send the log to stderr; in a distributed run, other processes only log errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("imagetok")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


if __name__ == "__main__":
    main()
