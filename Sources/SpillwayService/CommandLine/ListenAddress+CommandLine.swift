package import NBDServer

// An address on its way in, from an option's value, and on its way out, as the URI of an export. Beyond what the
// server knows of it, its path is absolute and fits the kernel's structure, and its host is not empty.

extension ListenAddress {
  /// The longest path that the kernel takes for a unix socket, in bytes.
  package static let unixPathByteCountMax = 107

  /// Parses `text`, the value of `option`; a relative path is seen from `directory`.
  package init(parsing text: String, option: String, directory: String) throws(ServiceError) {
    if text.hasPrefix("unix:") {
      let path = String(text.dropFirst("unix:".count))
      guard !path.isEmpty else { throw Self.malformed(text, option) }
      self = try Self.checkedUnix(path: AbsolutePath.of(path, in: directory), option: option)
    } else if text.hasPrefix("tcp:") {
      self = try Self.tcp(text.dropFirst("tcp:".count), text: text, option: option)
    } else if text.hasPrefix("vsock:") {
      self = try Self.vsock(text.dropFirst("vsock:".count), text: text, option: option)
    } else {
      throw Self.malformed(text, option)
    }
  }

  /// The unix socket at an absolute `path`, if the kernel can take it; `option` is what the user can change.
  package static func checkedUnix(path: String, option: String) throws(ServiceError) -> ListenAddress {
    guard !path.utf8.contains(0) else { throw .usage("\(option): a path holds no NUL byte") }
    guard path.utf8.count <= unixPathByteCountMax else {
      throw .usage(
        "\(option): the socket path \(path) has \(path.utf8.count) bytes and the system allows "
          + "\(unixPathByteCountMax); give a shorter one with \(option) unix:PATH")
    }
    return .unix(path: path)
  }

  private static func tcp(
    _ rest: Substring, text: String, option: String
  ) throws(ServiceError) -> ListenAddress {
    let host: Substring
    let portText: Substring
    if rest.first == "[" {
      guard let close = rest.firstIndex(of: "]"), rest[close...].dropFirst().first == ":" else {
        throw malformed(text, option)
      }
      host = rest[..<close].dropFirst()
      portText = rest[close...].dropFirst(2)
    } else {
      guard let colon = rest.lastIndex(of: ":") else { throw malformed(text, option) }
      host = rest[..<colon]
      portText = rest[colon...].dropFirst()
      // An IPv6 address without brackets would lose its last group to the port.
      guard !host.contains(":") else {
        throw .usage("\(option) \(text): write an IPv6 address in brackets, tcp:[ADDRESS]:PORT")
      }
    }
    guard !host.isEmpty, !host.utf8.contains(0), portText.utf8.allSatisfy({ (48...57).contains($0) }),
      let port = UInt16(portText)
    else { throw malformed(text, option) }
    return .tcp(host: String(host), port: port)
  }

  private static func vsock(
    _ rest: Substring, text: String, option: String
  ) throws(ServiceError) -> ListenAddress {
    let parts = rest.split(separator: ":", omittingEmptySubsequences: false)
    let isPlain = rest.utf8.allSatisfy { (48...57).contains($0) || $0 == UInt8(ascii: ":") }
    guard parts.count == 2, isPlain || parts[0] == "any",
      let context = parts[0] == "any" ? anyContext : UInt32(parts[0]), let port = UInt32(parts[1])
    else { throw malformed(text, option) }
    return .vsock(context: context, port: port)
  }

  private static func malformed(_ text: String, _ option: String) -> ServiceError {
    .usage("\(option) \(text): an address is unix:PATH, tcp:HOST:PORT (port 0 to 65535) or vsock:CID:PORT")
  }

  /// The path of a unix socket; nil for any other address.
  package var unixPath: String? {
    if case .unix(let path) = self { path } else { nil }
  }

  /// The NBD URI of `export` at this address; `secure` says that it takes TLS.
  package func uri(export: String, secure: Bool = false) -> String {
    let scheme = secure ? "nbds" : "nbd"
    switch self {
    case .unix(let path): return "\(scheme)+unix:///\(export)?socket=\(Self.percentEncoded(path))"
    case .tcp(let host, let port):
      return "\(scheme)://\(host.contains(":") ? "[\(host)]" : host):\(port)/\(export)"
    case .vsock(let context, let port): return "\(scheme)+vsock://\(context):\(port)/\(export)"
    }
  }

  /// `path` with everything but unreserved characters and slashes percent-encoded.
  private static func percentEncoded(_ path: String) -> String {
    let hexadecimal = Array("0123456789ABCDEF")
    var encoded = ""
    for byte in path.utf8 {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
        UInt8(ascii: "~"), UInt8(ascii: "/"):
        encoded.unicodeScalars.append(Unicode.Scalar(byte))
      default:
        encoded += "%\(hexadecimal[Int(byte >> 4)])\(hexadecimal[Int(byte & 15)])"
      }
    }
    return encoded
  }
}
