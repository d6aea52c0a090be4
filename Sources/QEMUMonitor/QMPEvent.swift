/// Something that the other side said without being asked.
package struct QMPEvent: Decodable, Sendable, Equatable {
  /// Its name, as `JOB_STATUS_CHANGE`.
  package var name: String
  /// What it says; an empty object when it says nothing.
  package var data: JSONValue

  /// The event `name` with `data`.
  package init(name: String, data: JSONValue = [:]) {
    self.name = name
    self.data = data
  }

  private enum CodingKeys: String, CodingKey {
    case name = "event"
    case data
  }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    name = try container.decode(String.self, forKey: .name)
    data = try container.decodeIfPresent(JSONValue.self, forKey: .data) ?? [:]
  }
}
