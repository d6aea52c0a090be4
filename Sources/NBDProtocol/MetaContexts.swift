/// The metadata contexts that exports have ("Metadata querying"). The raw value is the name on the wire.
enum MetaContext: String, CaseIterable {
  case baseAllocation = "base:allocation"

  /// The id under which SET_META_CONTEXT hands it out.
  var id: UInt32 {
    switch self {
    case .baseAllocation: 1
    }
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

  /// What LIST answers: everything when nothing is asked; `base:` is a wildcard; what is unknown is ignored.
  var listed: [MetaContext] {
    MetaContext.allCases.filter { context in
      queries.isEmpty || queries.contains(context.rawValue)
        || queries.contains { $0.hasSuffix(":") && context.rawValue.hasPrefix($0) }
    }
  }

  /// What SET selects: what is named in full, and nothing else.
  var selected: [MetaContext] { MetaContext.allCases.filter { queries.contains($0.rawValue) } }
}

/// What the last NBD_OPT_SET_META_CONTEXT selected. Each such option replaces it, also one that fails.
struct MetaContextSelection {
  private var exportName: String?
  private var contexts: [MetaContext] = []

  mutating func clear() { self = MetaContextSelection() }

  mutating func select(_ query: MetaContextQuery) {
    exportName = query.exportName
    contexts = query.selected
  }

  /// What is live when the client enters transmission with `name`: nothing if it selected for another name.
  func active(for name: String) -> [MetaContext] { exportName == name ? contexts : [] }
}
