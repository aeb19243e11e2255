"""Rows as files hold them, written by libraries that others write with."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq


def as_bytes(rows, ending):
    """Rows in the format of an ending."""
    if ending == ".jsonl":
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    if ending == ".json":
        return json.dumps(rows).encode()
    if ending == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(rows[0]), dialect="excel" if ending == ".csv" else "excel-tab")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()
