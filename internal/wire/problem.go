package wire

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Name of a problem. It is stable for ever: agents, alerts and people rely on it.
type Name string

// Every problem that this version can answer with. docs/protocol.md says how an agent reacts to each.
const (
	CertificateRequired        Name = "certificate-required"
	CertificateUnknown         Name = "certificate-unknown"
	CertificateNotYetValid     Name = "certificate-not-yet-valid"
	CertificateExpired         Name = "certificate-expired"
	CertificateSuperseded      Name = "certificate-superseded"
	EndpointSuspended          Name = "endpoint-suspended"
	EndpointBlocked            Name = "endpoint-blocked"
	EndpointDecommissioned     Name = "endpoint-decommissioned"
	EndpointUnknown            Name = "endpoint-unknown"
	SessionReplaced            Name = "session-replaced"
	IdentityConflict           Name = "identity-conflict"
	TokenUnknown               Name = "token-unknown"
	TokenExpired               Name = "token-expired"
	TokenExhausted             Name = "token-exhausted"
	ProofInvalid               Name = "proof-invalid"
	EnrollmentDenied           Name = "enrollment-denied"
	CSRInvalid                 Name = "csr-invalid"
	Malformed                  Name = "malformed"
	TLSEMSRequired             Name = "tls-ems-required"
	AgentVersionUnsupported    Name = "agent-version-unsupported"
	ProtocolVersionUnsupported Name = "protocol-version-unsupported"
	SubprotocolUnsupported     Name = "subprotocol-unsupported"
	NotFound                   Name = "not-found"
	MethodNotAllowed           Name = "method-not-allowed"
	MessageTimeout             Name = "message-timeout"
	LengthRequired             Name = "length-required"
	MediaTypeUnsupported       Name = "media-type-unsupported"
	PayloadTooLarge            Name = "payload-too-large"
	Throttled                  Name = "throttled"
	ArtifactNotOffered         Name = "artifact-not-offered"
	RangeNotSatisfiable        Name = "range-not-satisfiable"
	StoreUnavailable           Name = "store-unavailable"
	Internal                   Name = "internal"
	Overloaded                 Name = "overloaded"
	Draining                   Name = "draining"
	NotReady                   Name = "not-ready"
)

// problems is the one table of names.
var problems = map[Name]struct {
	status int
	title  string
}{
	CertificateRequired:        {http.StatusUnauthorized, "A client certificate is required"},
	CertificateUnknown:         {http.StatusUnauthorized, "The client certificate was not issued by this fleet"},
	CertificateNotYetValid:     {http.StatusUnauthorized, "The client certificate is not valid yet"},
	CertificateExpired:         {http.StatusUnauthorized, "The client certificate has expired"},
	CertificateSuperseded:      {http.StatusUnauthorized, "The client certificate was replaced by a newer one"},
	EndpointSuspended:          {http.StatusForbidden, "The endpoint is suspended"},
	EndpointBlocked:            {http.StatusForbidden, "The endpoint is blocked"},
	EndpointDecommissioned:     {http.StatusForbidden, "The endpoint is decommissioned"},
	EndpointUnknown:            {http.StatusGone, "The endpoint does not exist any more"},
	SessionReplaced:            {http.StatusConflict, "A newer session of this identity took over"},
	IdentityConflict:           {http.StatusConflict, "Two machines use this identity"},
	TokenUnknown:               {http.StatusForbidden, "The enrolment token is unknown"},
	TokenExpired:               {http.StatusForbidden, "The enrolment token has expired"},
	TokenExhausted:             {http.StatusForbidden, "The enrolment token is used up"},
	ProofInvalid:               {http.StatusForbidden, "The proof does not hold"},
	EnrollmentDenied:           {http.StatusForbidden, "The enrolment was denied"},
	CSRInvalid:                 {http.StatusBadRequest, "The certificate request is not acceptable"},
	Malformed:                  {http.StatusBadRequest, "The request is malformed"},
	TLSEMSRequired:             {http.StatusForbidden, "TLS must use the extended master secret"},
	AgentVersionUnsupported:    {http.StatusForbidden, "This version of the agent is not served here"},
	SubprotocolUnsupported:     {http.StatusBadRequest, "None of the subprotocols offered is served"},
	ProtocolVersionUnsupported: {http.StatusGone, "This version of the protocol is not served"},
	NotFound:                   {http.StatusNotFound, "There is no such route"},
	MethodNotAllowed:           {http.StatusMethodNotAllowed, "The route does not have this method"},
	MessageTimeout:             {http.StatusRequestTimeout, "The request did not arrive in time"},
	LengthRequired:             {http.StatusLengthRequired, "The length of the body is required"},
	MediaTypeUnsupported:       {http.StatusUnsupportedMediaType, "The media type is not supported"},
	PayloadTooLarge:            {http.StatusRequestEntityTooLarge, "The body is too large"},
	ArtifactNotOffered:         {http.StatusNotFound, "No offer to the endpoint names this artifact"},
	RangeNotSatisfiable:        {http.StatusRequestedRangeNotSatisfiable, "The artifact has no such range"},
	StoreUnavailable:           {http.StatusServiceUnavailable, "The store does not have it, or does not answer"},
	Throttled:                  {http.StatusTooManyRequests, "Too many requests"},
	Internal:                   {http.StatusInternalServerError, "The server failed"},
	Overloaded:                 {http.StatusServiceUnavailable, "The server is overloaded"},
	Draining:                   {http.StatusServiceUnavailable, "The server is about to stop"},
	NotReady:                   {http.StatusServiceUnavailable, "The server is not ready"},
}

const problemBase = "https://rollcall.dev/problems/"

// Reason is the name in the form of a condition's reason: token-unknown is TokenUnknown.
func (n Name) Reason() string {
	var b strings.Builder
	for word := range strings.SplitSeq(string(n), "-") {
		if word != "" {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

// NameOfReason finds the problem whose Reason it is.
func NameOfReason(reason string) (Name, bool) {
	for n := range problems {
		if n.Reason() == reason {
			return n, true
		}
	}
	return "", false
}

// Problem is why a request was refused, in the form of RFC 9457. As an error it is what an agent gets from a gateway.
type Problem struct {
	Name Name
	// Detail says what to do, in a sentence for people.
	Detail string
	// Instance names this one refusal, to find it in the gateway's log.
	Instance string
	// RetryAfter is when the same request may be tried again; whole seconds on the wire, rounded up; 0 for nothing to say.
	RetryAfter time.Duration
	// Minimum is the lowest version that would have been served, where that was the reason.
	Minimum string
	// Supported are the forms that would have been, where that was the reason.
	Supported []string

	status int // as received, of a name that this version does not know
}

// Error is the detail, or else the title, with the name.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.title()
	}
	return text + " (" + string(p.Name) + ")"
}

// Status is the HTTP status of the problem.
func (p *Problem) Status() int {
	if known, ok := problems[p.Name]; ok {
		return known.status
	}
	if p.status != 0 {
		return p.status
	}
	return http.StatusInternalServerError
}

func (p *Problem) title() string {
	if known, ok := problems[p.Name]; ok {
		return known.title
	}
	return http.StatusText(p.Status())
}

func (p *Problem) retrySeconds() uint32 {
	return uint32((p.RetryAfter + time.Second - 1) / time.Second) //nolint:gosec // at most a day, see maxRetryAfter
}

// Proto is the problem as a message.
func (p *Problem) Proto() *agentv1.Problem {
	return &agentv1.Problem{
		Type:       problemBase + string(p.Name),
		Title:      p.title(),
		Status:     uint32(p.Status()), //nolint:gosec // three digits
		Detail:     CutText(p.Detail, maxDetailBytes),
		Instance:   CutText(p.Instance, MaxText),
		RetryAfter: p.retrySeconds(),
		Minimum:    p.Minimum,
		Supported:  p.Supported,
	}
}

// Write answers a request with the problem.
func (p *Problem) Write(w http.ResponseWriter) {
	body, err := JSON.Marshal(p.Proto())
	if err != nil { // a list that is not UTF-8: the status says what it can
		body = nil
	}
	h := w.Header()
	h.Set("Content-Type", typeProblem)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	if s := p.retrySeconds(); s > 0 {
		h.Set("Retry-After", strconv.FormatUint(uint64(s), 10))
	}
	w.WriteHeader(p.Status())
	_, _ = w.Write(body) // the agent may be gone; there is nobody else to tell
}
