"""Event files that TensorBoard reads."""

from __future__ import annotations

import math
import struct

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from heliostat.report.tensorboard import NoBoard, TensorBoard, open_board
from heliostat.storage.objects import ObjectPath


def events(folder) -> list[Event]:
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = content[12 : 12 + length]
            sums = struct.pack("<II", *map(masked_crc32c, (content[:8], event)))
            assert sums == content[8:12] + content[12 + length : 16 + length]
            found.append(Event.FromString(event))
            content = content[16 + length :]
    return found


def scalars(folder) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, round(value.simple_value, 4))
        for event in events(folder)
        for value in event.summary.value
    ]


def test_rows_become_scalars_and_a_resume_cuts_what_came_after(tmp_path):
    board = TensorBoard(tmp_path)
    board.add({"time": 1.0, "step": 1, "epoch": 0.1, "train/loss": 0.5})
    board.add(
        {"time": 2.0, "step": 2, "epoch": 0.2, "train/loss": math.nan, "validation/auc": 0.75}
    )
    board.cut(1)
    board.add({"time": 3.0, "step": 2, "epoch": 0.2, "train/loss": 0.25, "fold": 1})
    board.close()
    expected = [("train/loss", 1, 0.5), ("validation/auc", 2, 0.75), ("fold-1/train/loss", 2, 0.25)]
    assert scalars(tmp_path) == expected
    begun = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert begun and begun[0] == 2  # TensorBoard forgets from here on
    assert events(tmp_path)[0].file_version == "brain.Event:2"
    assert isinstance(open_board(ObjectPath("s3://bucket", "run")), NoBoard)
