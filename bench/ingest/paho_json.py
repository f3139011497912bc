"""What one would write: paho, JSON, and a row a window committed with each message. `python -m bench.ingest.paho_json`.

Arguments: URL of the database, host and port of the broker, CA file, certificate, key.
"""

import json
import resource
import ssl
import sys
import threading
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import create_engine, text

COLUMNS = ("device", "t0", "model", "version", "sha256", "lane", "n", "errors", "latency", "classes")


def main() -> None:
    """Serve until the input ends."""
    url, host, port, ca_file, cert, key = sys.argv[1:7]
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE peer_window ({', '.join(f'{name} TEXT' for name in COLUMNS)})"))
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    insert = text(f"INSERT INTO peer_window VALUES ({', '.join(f':{name}' for name in COLUMNS)})")  # our names
    counted = {"messages": 0, "windows": 0}

    def take(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        said = json.loads(message.payload)
        with engine.begin() as connection:
            for window in said["windows"]:
                lists = {name: json.dumps(window[name]) for name in ("latency", "classes")}
                connection.execute(insert, {"device": said["device"], **window, **lists})
                counted["windows"] += 1
        counted["messages"] += 1

    up = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="srv-main", protocol=paho.MQTTv5)
    context = ssl.create_default_context(cafile=ca_file)
    context.load_cert_chain(cert, key)
    client.tls_set_context(context)
    client.on_connect = lambda client, *_: client.subscribe("ef/1/acme/d/+/up/tele", 1)
    client.on_subscribe = lambda *_: up.set()
    client.on_message = take
    client.connect(host, int(port))
    client.loop_start()
    up.wait(20)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"cpu_s": usage.ru_utime + usage.ru_stime, **counted}), flush=True)


if __name__ == "__main__":
    main()
