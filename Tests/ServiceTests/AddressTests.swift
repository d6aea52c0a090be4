import NBDServer
import SpillwayService
import Testing

/// Goal: an address means the same on the command line, in the ready line and to the kernel.
/// Method: tables of texts, good and bad, seen from a fixed directory.
@Suite struct AddressTests {
  private func parse(_ text: String) throws(ServiceError) -> ListenAddress {
    try ListenAddress(parsing: text, option: "--listen", directory: "/here")
  }

  @Test(
    "an address is a path or a host and a port",
    arguments: [
      ("unix:/run/a.sock", ListenAddress.unix(path: "/run/a.sock")),
      ("unix:a.sock", .unix(path: "/here/a.sock")),
      ("unix:./b//c.sock", .unix(path: "/here/b/c.sock")),
      ("unix:/a:b", .unix(path: "/a:b")),
      ("tcp:localhost:10809", .tcp(host: "localhost", port: 10809)),
      ("tcp:127.0.0.1:65535", .tcp(host: "127.0.0.1", port: 65535)),
      ("tcp:[::1]:1", .tcp(host: "::1", port: 1)),
      ("tcp:h:0", .tcp(host: "h", port: 0)),
      ("vsock:2:10809", .vsock(context: 2, port: 10809)),
      ("vsock:any:1", .vsock(context: .max, port: 1)),
    ])
  func good(text: String, address: ListenAddress) throws {
    #expect(try parse(text) == address)
  }

  @Test(
    "anything else is a usage error that repeats what was typed",
    arguments: [
      "", "unix:", "/run/a.sock", "tcp:", "tcp:h", "tcp:h:", "tcp::1", "tcp:h:65536", "tcp:h:-1", "tcp:h:+1",
      "tcp:h:1x", "tcp:::1:10809", "tcp:[::1]", "tcp:[::1]10809", "tcp:[::1:1", "tcp:[]:1", "vsock:2",
      "vsock::1", "vsock:2:", "vsock:2:4294967296", "vsock:a:1", "vsock:2:1:1", "vsock:-1:1",
      "UNIX:/a",
    ])
  func bad(text: String) {
    let error = #expect(throws: ServiceError.self) { try parse(text) }
    #expect(error?.status == .usage)
    #expect(error?.message.contains("--listen \(text)") == true)
  }

  @Test("a socket path may have 107 bytes and not one more")
  func longPaths() throws {
    let longest = "/" + String(repeating: "x", count: 106)
    #expect(try parse("unix:\(longest)") == .unix(path: longest))
    let error = #expect(throws: ServiceError.self) { try parse("unix:\(longest)x") }
    #expect(error?.status == .usage)
    #expect(error?.message.contains("108 bytes") == true)
  }

  @Test("a multi-byte character counts with all its bytes")
  func multiByteCharacters() {
    #expect(throws: ServiceError.self) { try parse("unix:/" + String(repeating: "ä", count: 54)) }
  }

  @Test(
    "an address prints as it is parsed",
    arguments: ["unix:/a b", "tcp:h:1", "tcp:[fe80::1]:2", "vsock:3:4", "vsock:any:5"])
  func roundTrip(text: String) throws {
    #expect(try parse(text).description == text)
  }

  @Test("URIs escape what a path may hold and a query may not, and leave the @ of a view alone")
  func uris() {
    #expect(
      ListenAddress.unix(path: "/run/a b?c&d%.sock").uri(export: "sda@live")
        == "nbd+unix:///sda@live?socket=/run/a%20b%3Fc%26d%25.sock")
    #expect(ListenAddress.tcp(host: "h", port: 10809).uri(export: "sda") == "nbd://h:10809/sda")
    #expect(ListenAddress.tcp(host: "::1", port: 2).uri(export: "sda") == "nbd://[::1]:2/sda")
    #expect(ListenAddress.vsock(context: 3, port: 4).uri(export: "sda") == "nbd+vsock://3:4/sda")
    #expect(ListenAddress.tcp(host: "h", port: 2).uri(export: "sda", secure: true) == "nbds://h:2/sda")
    #expect(
      ListenAddress.unix(path: "/s").uri(export: "sda", secure: true) == "nbds+unix:///sda?socket=/s")
  }

  @Test("the ready line names every disk at every address, the variables the first disk")
  func endpoints() {
    let endpoints = Endpoints(
      listen: [.tcp(host: "h", port: 1), .unix(path: "/i")], view: [.unix(path: "/v")], disks: ["a", "b"])
    #expect(
      endpoints.readyLine == "ready: nbd://h:1/a nbd+unix:///a?socket=/i nbd://h:1/b nbd+unix:///b?socket=/i "
        + "nbd+unix:///a@live?socket=/v nbd+unix:///b@live?socket=/v")
    #expect(
      endpoints.variables == [
        "uri": "nbd://h:1/a", "view_uri": "nbd+unix:///a@live?socket=/v", "unixsocket": "/i",
        "view_unixsocket": "/v",
      ])
  }

  @Test("the URIs of a disk that is served behind TLS only say so")
  func securedEndpoints() {
    let (listen, view) = (ListenAddress.tcp(host: "h", port: 1), ListenAddress.unix(path: "/v"))
    let endpoints = Endpoints(listen: [listen], view: [view], disks: ["a", "b"], secured: ["b"])
    #expect(
      endpoints.readyLine
        == "ready: nbd://h:1/a nbds://h:1/b nbd+unix:///a@live?socket=/v nbds+unix:///b@live?socket=/v")
    #expect(
      Endpoints(listen: [listen], view: [view], disks: ["b", "a"], secured: ["b"]).variables["view_uri"]
        == "nbds+unix:///b@live?socket=/v")
  }

  @Test("without a unix socket the variable is there and empty")
  func noUnixSocket() {
    let tcp = ListenAddress.tcp(host: "h", port: 1)
    #expect(Endpoints(listen: [tcp], view: [tcp], disks: ["a"]).variables["unixsocket"] == "")
  }
}
