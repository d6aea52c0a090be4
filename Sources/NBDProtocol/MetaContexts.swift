/// A metadata context ("Metadata querying") under the number that a connection knows it by.
package struct MetaContext: Equatable, Sendable {
  /// What block status replies call it.
  package let id: UInt32
  /// Its name on the wire.
  package let name: String

  /// Numbers are this server's to choose, as long as no two of a connection are the same.
  package init(id: UInt32, name: String) {
    self.id = id
    self.name = name
  }
}

/// The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: an export and what is asked of it.
///
/// | size | what                        |
/// |  4   | length n of the export name |
/// |  n   | export name                 |
/// |  4   | number of queries           |
/// | 4, m | each: length and query      |
struct MetaContextQuery {
  let exportName: String
  private let queries: [String]

  init(_ data: OptionData) throws(OptionFault) {
    var data = data
    exportName = try data.takeString(byteCount: Int(try data.take(UInt32.self)))
    var queries: [String] = []
    for _ in 0..<(try data.take(UInt32.self)) {
      queries.append(try data.takeString(byteCount: Int(try data.take(UInt32.self))))
    }
    try data.requireEnd()
    self.queries = queries
  }

  /// What LIST answers of the contexts that there are: everything when nothing is asked; `base:` or `qemu:dirty-bitmap:`
  /// is a wildcard; what is unknown is ignored.
  func listed(of names: [String]) -> [MetaContext] {
    let (asked, wildcards) = (Set(queries), queries.filter { $0.hasSuffix(":") })
    return names.filter { name in
      queries.isEmpty || asked.contains(name) || wildcards.contains { name.hasPrefix($0) }
    }.map { MetaContext(id: 0, name: $0) }
  }

  /// What SET selects: what is named in full, once, and nothing else. Numbers are places in the list of all, so that
  /// `base:allocation` is 1 everywhere.
  func selected(of names: [String]) throws(OptionFault) -> [MetaContext] {
    let asked = Set(queries)
    let found = names.enumerated().filter { asked.contains($0.element) }
    guard found.count <= Limits.contextsMax else {
      throw OptionFault(ReplyCode.tooBig, "more than \(Limits.contextsMax) contexts")
    }
    return found.map { MetaContext(id: UInt32($0.offset + 1), name: $0.element) }
  }
}

/// What the last NBD_OPT_SET_META_CONTEXT selected. Each such option replaces it, also one that fails.
struct MetaContextSelection {
  private var exportName: String?
  private var contexts: [MetaContext] = []

  mutating func clear() { self = MetaContextSelection() }

  mutating func select(_ contexts: [MetaContext], of exportName: String) {
    self.exportName = exportName
    self.contexts = contexts
  }

  /// What is live when the client enters transmission with `name`: nothing if it selected for another name.
  func active(for name: String) -> [MetaContext] { exportName == name ? contexts : [] }
}
