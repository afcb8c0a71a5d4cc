//! SOAP 1.1 envelopes of vim25: a call to be sent, and the answer or fault that came back.

use crate::{
    error::Failure,
    moref::MoRef,
    xml::{self, Element, Writer},
};

/// The oldest version that we speak: ESXi and vCenter 6.5 and all that came after understand it.
pub(crate) const ACTION: &str = "urn:vim25/6.5";

/// One call, ready to be sent as often as needed.
pub(crate) struct Request {
    pub(crate) call: &'static str,
    pub(crate) body: String,
}

impl Request {
    /// A call of `this`'s method; `fill` writes the arguments in the order of the schema.
    pub(crate) fn new(call: &'static str, this: &MoRef, fill: impl FnOnce(&mut Writer)) -> Self {
        let mut w = Writer::new();
        let spaces = concat!(
            " xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"",
            " xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"",
            " xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\""
        );
        w.nested("e:Envelope", spaces, |w| {
            w.element("e:Body", |w| {
                w.nested(call, " xmlns=\"urn:vim25\"", |w| {
                    w.moref("_this", this);
                    fill(w);
                });
            });
        });
        Self { call, body: w.finish() }
    }
}

/// The server's refusal.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The call or task that was refused.
    pub(crate) call: &'static str,
    /// The fault's type, such as `DuplicateName`.
    pub(crate) name: String,
    pub(crate) message: String,
    /// The fault itself: `TaskInProgress` has the task in it.
    pub(crate) detail: Element,
}

impl Fault {
    /// The object that the fault names in one of its fields.
    pub(crate) fn moref(&self, field: &str) -> Option<MoRef> {
        self.detail.child(field)?.moref()
    }
}

/// The answer in an envelope: what is in `<Method>Response`, or the fault.
pub(crate) fn open(call: &'static str, document: &[u8]) -> Result<Element, Failure> {
    let mut envelope = xml::parse(document).map_err(|e| Failure::garbled(call, e.to_string()))?;
    if envelope.name != "Envelope" {
        return Err(Failure::garbled(call, format!("it is a <{}>, not SOAP", envelope.name)));
    }
    let body = envelope.children.iter_mut().find(|child| child.name == "Body");
    let answer = body.and_then(|body| (!body.children.is_empty()).then(|| body.children.remove(0)));
    match answer {
        None => Err(Failure::garbled(call, "the SOAP body is empty")),
        Some(fault) if fault.name == "Fault" => {
            Err(Failure::Fault(Box::new(soap_fault(call, fault))))
        }
        Some(answer) if answer.name.strip_suffix("Response") == Some(call) => Ok(answer),
        Some(other) => Err(Failure::garbled(call, format!("it answers with <{}>", other.name))),
    }
}

fn soap_fault(call: &'static str, mut fault: Element) -> Fault {
    let text = fault.text_at(&["faultstring"]).unwrap_or_default().to_owned();
    let detail = fault.children.iter_mut().find(|child| child.name == "detail");
    let detail =
        detail.and_then(|detail| (!detail.children.is_empty()).then(|| detail.children.remove(0)));
    let detail = detail.unwrap_or_default();
    let name = detail.xsi_type.clone().unwrap_or_else(|| {
        let element = detail.name.strip_suffix("Fault").unwrap_or(&detail.name);
        if element.is_empty() { "SoapFault".to_owned() } else { element.to_owned() }
    });
    Fault { call, name, message: message(text, &detail), detail }
}

/// The fault in a `LocalizedMethodFault`, as a task's `info.error` is.
pub(crate) fn task_fault(call: &'static str, mut error: Element) -> Fault {
    let text = error.text_at(&["localizedMessage"]).unwrap_or_default().to_owned();
    let at = error.children.iter().position(|child| child.name == "fault");
    let detail = at.map(|at| error.children.swap_remove(at)).unwrap_or_default();
    let name = detail.xsi_type.clone().unwrap_or_else(|| "UnknownFault".to_owned());
    Fault { call, name, message: message(text, &detail), detail }
}

/// The fault's text with what its parts add: the reason of a failed mount is only in those.
fn message(text: String, detail: &Element) -> String {
    let mut parts = vec![text];
    parts.extend(
        detail.all("faultMessage").filter_map(|m| m.text_at(&["message"])).map(str::to_owned),
    );
    for field in ["reason", "text", "name", "invalidProperty"] {
        parts.extend(detail.text_at(&[field]).map(str::to_owned));
    }
    let mut out = String::new();
    for part in parts {
        let part = part.trim();
        if !part.is_empty() && !out.contains(part) {
            if !out.is_empty() {
                out.push_str(": ");
            }
            out.extend(part.chars().take(MAX_MESSAGE));
        }
    }
    out
}

/// Characters of each part of a fault's text that we keep: it goes to logs and journals.
const MAX_MESSAGE: usize = 1000;

#[cfg(test)]
mod tests {
    use super::{Request, open, task_fault};
    use crate::{
        error::{Failure, VsphereError},
        moref::MoRef,
        xml,
    };

    fn envelope(body: &str) -> String {
        format!(
            "<soapenv:Envelope xmlns:soapenv=\"s\" xmlns:xsi=\"i\"><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
        )
    }

    fn failure(body: &str) -> Failure {
        open("Login", envelope(body).as_bytes()).unwrap_err()
    }

    #[test]
    fn a_request_is_an_envelope_with_escaped_arguments() {
        let this = MoRef::new("Folder", "group-v3");
        let request = Request::new("RegisterVM_Task", &this, |w| w.text("path", "[a] b&c/d.vmx"));
        let root = xml::parse(request.body.as_bytes()).unwrap();
        let call = root.at(&["Body", "RegisterVM_Task"]).unwrap();
        assert_eq!(call.child("_this").unwrap().moref(), Some(this));
        assert_eq!(call.text_at(&["path"]), Some("[a] b&c/d.vmx"));
    }

    #[test]
    fn the_answer_is_what_is_in_the_response() {
        let text = envelope(
            "<LoginResponse xmlns=\"urn:vim25\"><returnval><key>k</key></returnval></LoginResponse>",
        );
        let answer = open("Login", text.as_bytes()).unwrap();
        assert_eq!(answer.text_at(&["returnval", "key"]), Some("k"));
    }

    #[test]
    fn a_fault_has_its_type_and_texts() {
        let failure = failure(
            "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>Cannot complete login</faultstring>\
             <detail><InvalidLoginFault xmlns=\"urn:vim25\" xsi:type=\"InvalidLogin\"></InvalidLoginFault></detail></soapenv:Fault>",
        );
        assert!(failure.is(&["InvalidLogin"]));
        let error = VsphereError::from(failure);
        assert!(matches!(&error, VsphereError::Denied { fault, .. } if fault == "InvalidLogin"));
        assert_eq!(error.to_string(), "Login: not allowed: InvalidLogin: Cannot complete login");
    }

    #[test]
    fn a_fault_without_a_type_is_named_by_its_element() {
        let failure = failure(
            "<s:Fault><faultstring>x</faultstring><detail><NoPermissionFault/></detail></s:Fault>",
        );
        assert!(failure.is(&["NoPermission"]));
        assert!(
            super::open("Login", envelope("<s:Fault/>").as_bytes()).unwrap_err().is(&["SoapFault"])
        );
    }

    #[test]
    fn a_platform_fault_tells_its_reason() {
        let error = xml::parse(
            b"<error xmlns:xsi=\"i\"><fault xsi:type=\"PlatformConfigFault\"><text>Unable to connect</text></fault>\
              <localizedMessage>An error occurred during host configuration.</localizedMessage></error>",
        )
        .unwrap();
        let fault = task_fault("CreateNasDatastore", error);
        assert_eq!(fault.name, "PlatformConfigFault");
        assert_eq!(
            fault.message,
            "An error occurred during host configuration.: Unable to connect"
        );
    }

    #[test]
    fn a_fault_names_objects() {
        let failure = failure(
            "<s:Fault><faultstring>busy</faultstring><detail><TaskInProgressFault xsi:type=\"TaskInProgress\">\
             <task type=\"Task\">task-7</task></TaskInProgressFault></detail></s:Fault>",
        );
        let Failure::Fault(fault) = failure else { panic!("no fault") };
        assert_eq!(fault.moref("task"), Some(MoRef::new("Task", "task-7")));
    }

    #[test]
    fn other_answers_are_garbled() {
        for body in ["", "<LogoutResponse/>", "<html/>"] {
            assert!(
                matches!(failure(body), Failure::Error(VsphereError::Garbled { .. })),
                "{body}"
            );
        }
        for document in ["<html><body/></html>", "", "<a>"] {
            let failure = open("Login", document.as_bytes()).unwrap_err();
            assert!(matches!(failure, Failure::Error(VsphereError::Garbled { .. })), "{document}");
        }
    }
}
