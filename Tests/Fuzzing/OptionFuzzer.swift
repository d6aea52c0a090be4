import Bytes
import NBDProtocol

// libFuzzer's way into the negotiation. The first byte chooses the TLS policy, the rest is what a client sends. Whatever it
// is, the machine must not trap, must not consume more than there is, and must keep no more than `inputBytesMin` of it.

private let exports = [
  ExportDescription(
    name: "disk", text: "a disk", byteCount: 1 << 44, isReadOnly: false, minimumBlock: 1,
    contexts: ["base:allocation", "x-spillway:state", "qemu:dirty-bitmap:a"]),
  ExportDescription(
    name: "view", text: "ä", byteCount: 1 << 20, isReadOnly: true, minimumBlock: 512, requiresTLS: true),
]

@c(LLVMFuzzerTestOneInput)
public func fuzzOptions(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  guard count > 0 else { return 0 }
  let policy: TLSPolicy = [.off, .on, .require][Int(start[0]) % 3]
  var shell = FuzzShell(ServerMachine(tls: policy), exports)
  // Clients that greet properly get further.
  shell.feed([0, 0, 0, start[0] & 4 == 0 ? 3 : start[0]])
  shell.feed(Array(UnsafeBufferPointer(start: start + 1, count: count - 1)))
  return 0
}
