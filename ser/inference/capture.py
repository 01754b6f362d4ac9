"""A microphone on standard output: ``python -m ser.inference.capture '{"device": null, "rate": null, "block": 0.1}'``.

PortAudio looks for devices only when it starts, and sounddevice has no public call to start it again. A process of its
own therefore finds a microphone that was plugged in again, and a device that hangs can be given up by ending it. The
first line is JSON: the name, device (name that is found again) and rate of the open microphone, or an error. Blocks of
mono float32 samples follow. The process ends with the device, or when its standard input is closed.
"""

import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

from ser.errors import first_line


def main() -> None:
    """Write what the device of the first argument hears, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that listens
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _silence_libraries()
    given = json.loads(sys.argv[1])
    try:
        import sounddevice  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: the PortAudio library is missing
        _tell({"error": str(error), "installed": False})
        return
    failures = (sounddevice.PortAudioError, ValueError)
    try:
        found = sounddevice.query_devices(given["device"], "input")
        rate = given["rate"] or int(found["default_samplerate"])
        system = sounddevice.query_hostapis(found["hostapi"])["name"]
    except failures as error:
        there = [
            f"{each['index']} {each['name']}" for each in sounddevice.query_devices() if each["max_input_channels"]
        ]
        reason = first_line(error).rstrip(":") + "; there are: " * bool(there) + ", ".join(there)
        _tell({"error": reason, "installed": True, "found": False})
        return
    arriving: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    settings = {"device": found["index"], "samplerate": rate, "channels": 1, "dtype": "float32"}
    settings["blocksize"] = round(given["block"] * rate)
    try:
        with sounddevice.RawInputStream(
            callback=lambda samples, frames, times, status: arriving.put(bytes(samples)), **settings
        ) as stream:
            _tell({"name": found["name"], "device": f"{found['name']}, {system}", "rate": rate})
            while stream.active or not arriving.empty():  # what came before the end is heard, too
                with suppress(queue.Empty):
                    _write(arriving.get(timeout=0.2))
    except failures as error:
        _tell({"error": first_line(error), "installed": True, "found": True})


def _silence_libraries() -> None:
    """Nothing on standard error but Python's own: ALSA and PortAudio complain there at each device and each attempt."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # unbuffered: a lock held here at the end of the process is a fatal error
        pass
    signal.raise_signal(signal.SIGTERM)


def _tell(facts: dict[str, Any]) -> None:
    _write(json.dumps(facts).encode() + b"\n")


def _write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
