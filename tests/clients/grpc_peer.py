"""An application and a client of gRPC: `serve` prints its port, `call HOST:PORT` checks every kind of call.

What the application notices of calls that are taken back it tells on its standard output.
"""

import sys
import threading
import time
from concurrent import futures

import grpc


class Calls(grpc.GenericRpcHandler):
    """Bytes in, bytes out: no generated code is needed."""

    def service(self, details):
        return {
            "/t/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/t/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/t/Down": grpc.unary_stream_rpc_method_handler(self.down),
            "/t/Up": grpc.stream_unary_rpc_method_handler(self.up),
            "/t/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "/t/Hang": grpc.unary_unary_rpc_method_handler(self.hang),
        }.get(details.method)

    def unary(self, request, context):
        context.set_trailing_metadata((("x-left", str(context.time_remaining() is not None)),))
        return b"echo " + request

    def fail(self, request, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no \N{SNOWMAN}")

    def down(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    def up(self, requests, context):
        return b",".join(requests)

    def chat(self, requests, context):
        for request in requests:
            yield b"<" + request + b">"

    def hang(self, request, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(20)
        print("taken back" if ended.is_set() else "never taken back", flush=True)
        return b""


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((Calls(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def call(address):
    with grpc.insecure_channel(address) as channel:
        reply, whole = channel.unary_unary("/t/Unary").with_call(b"a", timeout=10)
        assert reply == b"echo a", reply
        assert dict(whole.trailing_metadata()).get("x-left") == "True", whole.trailing_metadata()

        error = code_of(lambda: channel.unary_unary("/t/Fail")(b"", timeout=10))
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "no \N{SNOWMAN}", error
        assert dict(error.trailing_metadata()).get("x-why") == "because", error

        error = code_of(lambda: channel.unary_unary("/t/Nothing")(b"", timeout=10))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

        down = list(channel.unary_stream("/t/Down")(b"1000", timeout=10))
        assert down == [b"%d" % number for number in range(1000)], down[:5]

        large = [bytes([65 + number]) * 300_000 for number in range(10)]
        up = channel.stream_unary("/t/Up")(iter(large), timeout=10)
        assert up == b",".join(large), len(up)

        chat(channel)

        began = time.monotonic()
        error = code_of(lambda: channel.unary_unary("/t/Hang")(b"", timeout=0.3))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert time.monotonic() - began < 5

        hanging = channel.unary_unary("/t/Hang").future(b"", timeout=15)
        time.sleep(0.2)  # Until the application has it, or not: both are taken back.
        assert hanging.cancel()
    print("all calls passed", flush=True)


def chat(channel):
    """One message after the other: each is answered before the next is sent."""
    turn = threading.Semaphore(1)

    def messages():
        for number in range(20):
            assert turn.acquire(timeout=10)
            yield b"%d" % number

    for number, answer in enumerate(channel.stream_stream("/t/Chat")(messages(), timeout=20)):
        assert answer == b"<%d>" % number, answer
        turn.release()


def overload(address):
    """More calls than there is room for: each is served, or told to come back."""
    with grpc.insecure_channel(address) as channel:
        calls = [channel.unary_unary("/t/Hang").future(b"", timeout=1) for _ in range(8)]
        errors = [code_of(call.result) for call in calls]
        away = [error for error in errors if error.code() == grpc.StatusCode.UNAVAILABLE]
        assert len(away) == 7, [error.code() for error in errors]
        for error in away:
            assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000, error
            assert "not started" in error.details(), error
    print("all others were told to come back", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["call", address]:
            call(address)
        case ["overload", address]:
            overload(address)
        case other:
            sys.exit(f"what is {other}?")
