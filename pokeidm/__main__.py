"""`python -m pokeidm` and the command `pokeidm`: what has to be there before anything is imported, and when all is done."""
import atexit, os, signal, sys, time
from contextlib import suppress


def _leave(*_):
    os.write(2, b"pokeidm: interrupted\n")
    os._exit(130)


def _once():
    "A handler that raises KeyboardInterrupt, and lets nobody disturb the tidying up of the next second."
    asked = []
    def interrupt(*_):
        if asked and time.monotonic() < asked[-1] + 1: return
        asked.append(time.monotonic())
        raise KeyboardInterrupt
    return interrupt


def _ended(status):
    "`status`, when processes that trained together have parted: their threads must not live on while the interpreter ends."
    together = sys.modules.get("torch.distributed")
    if not status and together and together.is_available() and together.is_initialized(): together.destroy_process_group()
    return status


def run():
    "Ctrl-C ends a command as `pokeidm.cli.main` says; while that is imported, at once. The end of a process is not disturbed, unless it takes more than a second."
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:      # a shell's background processes ignore it
        from pokeidm.cli import main
        sys.exit(_ended(main()))
    signal.signal(signal.SIGINT, _leave)
    status = None
    @atexit.register
    def last():                                                                # the first to be registered is the last to be called
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(OSError, ValueError): sys.stdout.flush()
        if status == 130: os._exit(130)                                        # CPython would end by the signal, had it come within an exec, as of a dataclass
    from pokeidm.cli import main
    signal.signal(signal.SIGINT, _once())
    status, ended = _ended(main()), time.monotonic()
    signal.signal(signal.SIGINT, lambda *_: time.monotonic() > ended + 1 and os._exit(status or 130))
    sys.exit(status)


if __name__ == "__main__": run()
