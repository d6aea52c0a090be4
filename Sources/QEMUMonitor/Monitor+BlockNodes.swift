/// A bitmap of a block node, which marks what is written.
package struct QEMUBitmap: Decodable, Sendable, Equatable {
  /// Its name, unique on its node.
  package var name: String
  /// Bytes that one bit stands for.
  package var granularity: Int64
  /// Bytes that are marked.
  package var count: Int64
  /// Whether it marks at present; a disabled one is frozen.
  package var recording: Bool
  /// Whether it outlives qemu, in the image; not told by qemu before 4.0.
  package var persistent: Bool?
  /// Whether a job or an export holds it; not told by qemu before 4.0.
  package var busy: Bool?
  /// Whether it was not saved when it should have been, and is of no use; told only when true.
  package var inconsistent: Bool?

  /// A bitmap as qemu tells of it: those of its own jobs have no name.
  fileprivate struct Told: Decodable {
    var bitmap: QEMUBitmap?
    private enum CodingKeys: String, CodingKey { case name }

    init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      let name = try container.decodeIfPresent(String.self, forKey: .name) ?? ""
      bitmap = name.isEmpty ? nil : try QEMUBitmap(from: decoder)
    }
  }
}

/// A node of qemu's block graph that has a name.
package struct QEMUBlockNode: Decodable, Sendable, Equatable {
  /// Its name.
  package var name: String
  /// Its driver, as `raw` or `qcow2`.
  package var driver: String
  /// Whether it can only be read.
  package var isReadOnly: Bool
  /// Bytes of the disk that it shows.
  package var byteCount: Int64
  /// What is recorded on it.
  package var bitmaps: [QEMUBitmap]

  private enum CodingKeys: String, CodingKey {
    case name = "node-name"
    case driver = "drv"
    case isReadOnly = "ro"
    case image
    case bitmaps = "dirty-bitmaps"
  }

  private struct Image: Decodable {
    var byteCount: Int64
    enum CodingKeys: String, CodingKey { case byteCount = "virtual-size" }
  }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    name = try container.decode(String.self, forKey: .name)
    driver = try container.decode(String.self, forKey: .driver)
    isReadOnly = try container.decode(Bool.self, forKey: .isReadOnly)
    byteCount = try container.decode(Image.self, forKey: .image).byteCount
    bitmaps =
      try container.decodeIfPresent([QEMUBitmap.Told].self, forKey: .bitmaps)?.compactMap(\.bitmap) ?? []
  }
}

/// A device of the guest, with the node behind it.
private struct GuestDevice: Decodable {
  struct Inserted: Decodable {
    var node: String?
    enum CodingKeys: String, CodingKey { case node = "node-name" }
  }
  var device: String
  var qdev: String?
  var inserted: Inserted?

  /// What a user may call it: the id of its drive, its own id, or its path.
  var names: [String] {
    let own = qdev?.split(separator: "/").map(String.init) ?? []
    // As `/machine/peripheral/ID/virtio-backend`.
    let id = own.firstIndex { $0.hasPrefix("peripheral") }.flatMap { own.dropFirst($0 + 1).first }
    return [device, qdev, id].compactMap { $0 }.filter { !$0.isEmpty }
  }
}

extension Monitor {
  /// The nodes that have a name, by name.
  package func blockNodes(_ schema: QEMUSchema) throws(QMPError) -> [String: QEMUBlockNode] {
    // Flat spares qemu from telling of a whole backing chain with each node.
    let isFlatKnown = schema.has("query-named-block-nodes", argument: "flat")
    let nodes = try execute(
      "query-named-block-nodes", arguments: isFlatKnown ? ["flat": true] : nil, as: [QEMUBlockNode].self)
    return Dictionary(nodes.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// The node that a user calls `name`: a node's name, or a device's id or path, whose node it then is.
  package func blockNode(_ name: String, _ schema: QEMUSchema) throws(QMPError) -> QEMUBlockNode {
    let nodes = try blockNodes(schema)
    if let node = nodes[name] { return node }
    let devices = try execute("query-block", as: [GuestDevice].self)
    if let node = devices.first(where: { $0.names.contains(name) })?.inserted?.node.flatMap({ nodes[$0] }) {
      return node
    }
    let known = nodes.keys.filter { !$0.hasPrefix("#") }.sorted() + devices.compactMap(\.names.first).sorted()
    throw .noSuchNode(name: name, known: known)
  }
}
