import SpillwayService
import Testing

@Suite struct SourceSpecificationTests {
  @Test("the options are taken from the end, so that a URI may have commas and equals signs")
  func parsing() throws {
    let plain = try SourceSpecification(parsing: "vda=nbd+unix:///live?socket=/run/a,b/s.sock,job=j=1")
    #expect(plain.disk == "vda" && plain.uri == "nbd+unix:///live?socket=/run/a,b/s.sock")
    #expect(plain.job == "j=1")
    let still = try SourceSpecification(parsing: "a.b=nbd://host/x,y,static")
    #expect(still.uri == "nbd://host/x,y" && still.job == nil)
  }

  @Test(
    "what is neither job nor static, or lacks a part, is a usage error that shows it",
    arguments: [
      "vda", "vda=", "vda=nbd://h/x", "vda=,static", "vda=,job=x", "vda=nbd://h,job=", "=u,static",
      "a b=u,static",
    ])
  func refusing(text: String) {
    let error = #expect(throws: ServiceError.self) { try SourceSpecification(parsing: text) }
    #expect(error?.status == .usage)
    #expect(error?.message.contains(text) == true)
  }
}
