"""The page's server: its own addresses, forged requests, and what an open page lets in."""

import contextlib
import io
import json

import fastapi
import pandas as pd
import pytest
import soundfile
from checkpoints import ENCODER, save_checkpoint, voice
from torchaudio.functional import resample

from ser.inference.vad import EnergyGate

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'ser-lab[demo]'")

from fastapi.testclient import TestClient

from ser.cli import main
from ser.demo import server
from ser.demo.live import LiveSettings


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    checkpoint = save_checkpoint(tmp_path_factory.mktemp("model") / "run" / "checkpoints" / "best.ckpt")
    (folder / "uploads").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setattr(server, "best_gate", EnergyGate)
        app, sessions = server.make_page(server.Settings([checkpoint]), folder)
        yield TestClient(app, base_url="http://127.0.0.1:7860"), sessions
        sessions.close_all()


@pytest.mark.parametrize("name, said", [("absent.ckpt", "does not exist"), ("unfit.ckpt", "frames of 20 values")])
def test_no_page_is_served_for_a_model_that_cannot_be_used(tmp_path, name, said, capsys, monkeypatch):
    save_checkpoint(tmp_path / "unfit.ckpt", encoder={**ENCODER, "mels": 20})
    monkeypatch.setattr(server, "_listener", lambda host, port: contextlib.nullcontext())
    monkeypatch.setattr(server.uvicorn, "Server", lambda config: pytest.fail("a page is served"))
    assert main(["demo", "--checkpoint", str(tmp_path / name)]) == 1
    assert said in capsys.readouterr().err


def test_blocks_become_a_panel_and_a_stretch_in_the_history(served):
    client, sessions = served
    session = sessions.of("browser")
    sound = resample(voice(6.0), 16000, 48000).numpy().astype("<f4")
    for first in range(0, len(sound), 24000):
        answer = client.post(
            f"/ser/{session.token}/block?first={first}&rate=48000", content=sound[first : first + 24000].tobytes()
        )
        assert set(answer.json()) == {"html", "said"}
    assert client.post(f"/ser/{session.token}/stop").status_code == 200
    assert session.listened.stream.processed + session.listened.stream.dropped == 3
    listed = pd.read_csv(io.StringIO(client.get(f"/ser/{session.token}/history.csv").text))
    assert listed["source"].tolist() == ["live"]
    rows = client.get(f"/ser/{session.token}/history.json").json()
    assert rows[0]["source"] == "live"
    assert rows[0]["seconds"] == pytest.approx(6.0)
    clip = client.get(f"/ser/{session.token}/clip/{rows[0]['number']}")
    assert clip.content[:4] == b"RIFF"


def test_a_recording_is_kept_on_request_and_ends_with_its_window(served):
    client, sessions = served
    session = sessions.of("recorder")
    session.settings = LiveSettings(window=2.0, hop=1.0, record=True)
    sound = voice(4.0).numpy().astype("<f4")
    for first in range(0, len(sound), 16000):
        client.post(
            f"/ser/{session.token}/block?first={first}&rate=16000", content=sound[first : first + 16000].tobytes()
        )
    where = f"/ser/{session.token}/recording"
    assert client.get(f"{where}.wav").status_code == 404  # not before the end
    shown = client.post(f"/ser/{session.token}/stop").json()["html"]
    assert f'href="{where}.wav"' in shown and f'href="{where}.jsonl"' in shown
    samples, rate = soundfile.read(io.BytesIO(client.get(f"{where}.wav").content), dtype="float32")
    assert rate == 16000 and samples == pytest.approx(sound, abs=1e-4)
    rows = [json.loads(line) for line in client.get(f"{where}.jsonl").text.splitlines()]
    assert len(rows) == session.listened.stream.processed > 0
    assert {"index", "start", "end", "emotion", "latency"} <= set(rows[0])
    assert client.get(f"{where}.exe").status_code == 404
    kept = session.listened.recording.wav
    session.close()
    assert not kept.exists()
    other = sessions.of("silent")
    client.post(f"/ser/{other.token}/block?first=0&rate=16000", content=sound.tobytes())
    assert "recording.wav" not in client.post(f"/ser/{other.token}/stop").json()["html"]


def test_forged_requests_are_refused(served):
    client, sessions = served
    token = sessions.of("browser").token
    assert client.post("/ser/guess/block?first=0&rate=48000", content=b"0000").status_code == 404
    assert client.post(f"/ser/{token}/block?first=-1&rate=48000", content=b"0000").status_code == 400
    assert client.post(f"/ser/{token}/block?first=0&rate=48000", content=b"000").status_code == 400
    assert "rate is 1 Hz" in client.post(f"/ser/{token}/block?first=0&rate=1", content=b"0000").json()["error"]
    assert client.get("/ser/guess/history.csv").status_code == 404
    assert client.get(f"/ser/{token}/clip/999").status_code == 404
    assert client.get("/ser/asset/page.py").status_code == 404
    assert client.get("/gradio_api/file=/etc/passwd").status_code in (403, 404)
    assert client.get(f"/gradio_api/file={server.__file__}").status_code in (403, 404)
    assert client.get("/", headers={"host": "somewhere.example"}).status_code == 400
    assert client.post("/ser/%C3%A9/stop").status_code == 404
    assert client.get("/ser/语/history.csv").status_code == 404
    for path in (f"/ser/{token}/stop", "/gradio_api/upload"):
        assert client.post(path, headers={"origin": "https://somewhere.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "https://example.org/a.wav", "bad\0name"])
def test_a_request_cannot_make_gradio_copy_a_file_from_elsewhere(served, path):
    client, sessions = served
    uploads = sessions.folder.parent / "uploads"
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for place, data in enumerate([[file], [[file]], [{"value": file}]]):
        body = {"data": data, "fn_index": 4, "session_hash": f"forger{place}"}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 403
        assert client.post("/gradio_api/queue/join", content=json.dumps(body)).status_code == 403
    assert not any(uploads.rglob("*passwd*"))


def test_gradio_itself_checks_paths_too(served):
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import _check_allowed

    page = next(route.app for route in served[0].app.routes if hasattr(getattr(route, "app", None), "get_blocks"))
    LocalContext.blocks.set(page.get_blocks())
    with pytest.raises(InvalidPathError):
        _check_allowed("/etc/passwd", check_in_upload_folder=True)


def test_the_page_loads_nothing_from_elsewhere(served):
    client, _ = served
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "fonts.googleapis" not in answer.text
    for name in ("capture.js", "worklet.js", "page.css"):
        assert "http" not in client.get(f"/ser/asset/{name}").text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("192.168.1.7:7860", 200),
        ("[fe80::1]:7860", 200),
        ("localhost", 200),
        ("ser.example.org", 200),
        ("SER.example.org:443", 200),
        ("rebound.example", 400),
        ("192.168.1.7.rebound.example", 400),
        ("", 400),
    ],
)
def test_an_open_page_answers_to_addresses_and_allowed_names_only(tmp_path, host, status):
    app = fastapi.FastAPI()
    settings = server.Settings([], host="0.0.0.0", allowed_hosts=["ser.example.org"])
    app.middleware("http")(server.Guard(tmp_path, settings))
    app.get("/")(lambda: {})
    assert TestClient(app).get("/", headers={"host": host}).status_code == status


def test_uploads_have_a_quota_per_client_and_in_all(tmp_path):
    app = fastapi.FastAPI()
    app.middleware("http")(server.Guard(tmp_path, server.Settings([], megabytes=0.001)))
    app.post("/gradio_api/upload")(lambda: {})

    def upload(client, size):
        browser = TestClient(app, base_url="http://127.0.0.1", client=(client, 1))
        return browser.post("/gradio_api/upload", content=b"0" * size).status_code

    assert [upload("a", 30_000), upload("a", 11_000), upload("a", 10_000)] == [200, 413, 200]
    assert [upload(name, 40_000) for name in "bcd"] == [200, 200, 200]
    assert upload("e", 1000) == 413
    browser = TestClient(app, base_url="http://127.0.0.1")
    assert browser.post("/gradio_api/upload", content=iter([b"0"])).status_code == 411
