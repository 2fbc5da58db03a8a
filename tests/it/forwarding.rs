//! What reaches the application, and what comes back.

use crate::support::{App, Tide};

#[tokio::test]
async fn a_request_goes_there_and_its_response_back() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("GET /a?b HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n").await;
    let (_conn, request) = app.serve("hello").await;
    assert_eq!(request.head.line, "GET /a?b HTTP/1.1");
    assert_eq!(request.field("host"), Some("example.org"));
    let response = client.response().await;
    assert_eq!((response.status(), response.text()), (200, "hello"));
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.answered(200), 1.0);
}
