/// Something outside the code under test went wrong, or did something that it never should.
package struct PeerError: Error, CustomStringConvertible {
  package var description: String
  package init(_ description: String) { self.description = description }
}
