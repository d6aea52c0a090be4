import Bytes
import NBDProtocol

// libFuzzer's way into the transmission phase. The first byte chooses what was negotiated, the rest is what a client sends.

private let disk = ExportDescription(
  name: "disk", text: "", byteCount: 1 << 44, isReadOnly: false, minimumBlock: 1,
  contexts: ["base:allocation", "x-spillway:state", "qemu:dirty-bitmap:a"])
private let view = ExportDescription(
  name: "disk", text: "", byteCount: 1 << 20, isReadOnly: true, minimumBlock: 512)

private func option(_ code: UInt8, _ data: [UInt8] = []) -> [UInt8] {
  Array("IHAVEOPT".utf8) + [0, 0, 0, code, 0, 0, 0, UInt8(data.count)] + data
}

@c(LLVMFuzzerTestOneInput)
public func fuzzRequests(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  guard count > 0 else { return 0 }
  let choice = start[0]
  var shell = FuzzShell(ServerMachine(), [choice & 1 == 0 ? disk : view])
  let name: [UInt8] = [0, 0, 0, 4] + Array("disk".utf8)
  shell.feed([0, 0, 0, 3])
  if choice & 2 != 0 { shell.feed(option(8)) }
  if choice & 4 != 0 { shell.feed(option(11)) }
  if choice & 8 != 0 {
    let query: [UInt8] = [0, 0, 0, 1, 0, 0, 0, 15] + Array("base:allocation".utf8)
    shell.feed(option(10, name + query))
  }
  shell.feed(option(7, name + [0, 0]))
  precondition(shell.machine.isTransmitting, "the negotiation is in order")
  shell.feed(Array(UnsafeBufferPointer(start: start + 1, count: count - 1)))
  return 0
}
