// gRPC's interop cases as a client, by @grpc/grpc-js: node grpc_js_client.js SOCKET. One JSON line for each case.
"use strict";
const grpc = require("@grpc/grpc-js");

const client = new grpc.Client(`unix:${process.argv[2]}`, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": 32 << 20,
});
const same = (value) => value;
const path = (method) => `/interop.Test/${method}`;
const ask = (asked, size = 0) => Buffer.from(JSON.stringify(asked).padEnd(size));
const soon = () => ({ deadline: Date.now() + 20000 });

function unary(method, request, metadata = new grpc.Metadata(), options = soon()) {
  return new Promise((resolve) => {
    const found = { trailers: null };
    const call = client.makeUnaryRequest(path(method), same, same, request, metadata, options, (error, answer) => {
      found.error = error;
      found.answer = answer;
      setImmediate(() => resolve(found));
    });
    call.on("status", (status) => (found.trailers = status.metadata));
  });
}

function collect(call) {
  return new Promise((resolve) => {
    const sizes = [];
    call.on("data", (data) => sizes.push(data.length));
    call.on("error", (error) => resolve({ sizes, error }));
    call.on("end", () => setImmediate(() => resolve({ sizes })));
  });
}

function bidi(options = soon()) {
  return client.makeBidiStreamRequest(path("Bidi"), same, same, new grpc.Metadata(), options);
}

const cases = {
  async empty_unary() {
    return (await unary("Unary", Buffer.alloc(0))).answer.length;
  },
  async large_unary() {
    return (await unary("Unary", ask({ sizes: [314159] }, 271828))).answer.length;
  },
  async client_compressed_unary() {
    const packer = new grpc.Client(`unix:${process.argv[2]}`, grpc.credentials.createInsecure(), {
      "grpc.default_compression_algorithm": 2,
    });
    return new Promise((resolve) =>
      packer.makeUnaryRequest(path("Unary"), same, same, Buffer.alloc(271828, 7), (error, answer) => {
        packer.close();
        resolve(error ? error.code : answer.length);
      })
    );
  },
  async client_streaming() {
    return new Promise((resolve) => {
      const call = client.makeClientStreamRequest(path("ClientStream"), same, same, new grpc.Metadata(), soon(),
        (error, answer) => resolve(error ? error.code : answer.toString()));
      for (const size of [27182, 8, 1828, 45904]) call.write(Buffer.alloc(size));
      call.end();
    });
  },
  async server_streaming() {
    const request = ask({ sizes: [31415, 9, 2653, 58979] });
    return (await collect(client.makeServerStreamRequest(path("ServerStream"), same, same, request, new grpc.Metadata(), soon()))).sizes;
  },
  async ping_pong() {
    const call = bidi();
    const sizes = [];
    const turns = [[27182, 31415], [8, 9], [1828, 2653], [45904, 58979]];
    return new Promise((resolve) => {
      const next = () => {
        const turn = turns.shift();
        if (turn) call.write(ask({ sizes: [turn[1]] }, turn[0]));
        else call.end();
      };
      call.on("data", (data) => { sizes.push(data.length); next(); });
      call.on("error", (error) => resolve(error.code));
      call.on("end", () => resolve(sizes));
      next();
    });
  },
  async empty_stream() {
    const call = bidi();
    call.end();
    return (await collect(call)).sizes;
  },
  async cancel_after_begin() {
    return new Promise((resolve) => {
      const call = client.makeClientStreamRequest(path("ClientStream"), same, same, new grpc.Metadata(), soon(),
        (error) => resolve(error.code));
      setImmediate(() => call.cancel());
    });
  },
  async cancel_after_first_response() {
    const call = bidi();
    call.write(ask({ sizes: [31415] }));
    return new Promise((resolve) => {
      call.on("data", () => call.cancel());
      call.on("error", (error) => resolve(error.code));
    });
  },
  async timeout_on_sleeping_server() {
    const call = bidi({ deadline: Date.now() + 100 });
    call.write(ask({ wait: true }));
    return (await collect(call)).error.code;
  },
  async custom_metadata() {
    const metadata = new grpc.Metadata();
    metadata.set("x-echo-trailing-bin", Buffer.from([0xab, 0, 0xff]));
    const found = await unary("Unary", Buffer.from("x"), metadata);
    return found.trailers.get("x-echo-trailing-bin").map((value) => value.toString("hex"));
  },
  async status_code_and_message() {
    const { error } = await unary("Unary", ask({ status: [2, "test status message"] }));
    return [error.code, error.details];
  },
  async special_status_message() {
    const text = "\t\ntest with whitespace\r\nand Unicode BMP \u263A and non-BMP \uD83D\uDE08\t\n";
    const { error } = await unary("Unary", ask({ status: [2, text] }));
    return [error.code, error.details === text];
  },
  async status_after_messages() {
    const request = ask({ sizes: [1, 2], status: [9, "no further"] });
    const found = await collect(client.makeServerStreamRequest(path("ServerStream"), same, same, request, new grpc.Metadata(), soon()));
    return [found.sizes, found.error.code, found.error.details];
  },
  async unimplemented_method() {
    return (await unary("Nope", Buffer.alloc(0))).error.code;
  },
  async unimplemented_service() {
    return new Promise((resolve) =>
      client.makeUnaryRequest("/no.such.Service/Unary", same, same, Buffer.alloc(0), (error) => resolve(error.code)));
  },
  async many_at_once() {
    const calls = [];
    for (let number = 0; number < 500; number++) calls.push(unary("Unary", Buffer.from(`${number}`)));
    return (await Promise.all(calls)).every((found, number) => found.answer.toString() === `${number}`);
  },
  async large_stream() {
    const request = ask({ sizes: Array(32).fill(1 << 20) });
    const { sizes } = await collect(client.makeServerStreamRequest(path("ServerStream"), same, same, request, new grpc.Metadata(), soon()));
    return sizes.reduce((sum, size) => sum + size, 0);
  },
  async message_too_large() {
    return (await unary("Unary", Buffer.alloc((16 << 20) + 1))).error.code;
  },
};

(async () => {
  for (const [name, run] of Object.entries(cases)) {
    let result;
    try {
      result = await run();
    } catch (error) {
      result = `failed: ${error}`;
    }
    console.log(JSON.stringify([name, result]));
  }
  client.close();
})();
