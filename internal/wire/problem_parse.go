package wire

import (
	"mime"
	"strings"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Bounds of what an agent keeps of a problem. Longer text is cut: it is for people, and half a sentence helps more than none.
const (
	maxNameBytes   = 64
	maxDetailBytes = 1 << 10
	maxSupported   = 16
	maxRetryAfter  = 24 * time.Hour
)

// ParseProblem reads the body of an answer that is no success. It is false when that is no problem document of this protocol (a proxy
// answered, say): then the status is all there is. A name that this version does not know is kept, and Status is the one received.
func ParseProblem(status int, contentType string, body []byte) (*Problem, bool) {
	m := &agentv1.Problem{}
	parsed := isProblemType(contentType) && len(body) <= MaxProblemBytes && JSON.Unmarshal(body, m) == nil
	p, ok := ProblemOf(m)
	if !parsed || !ok {
		return nil, false
	}
	p.status = status
	return p, true
}

// ProblemOf reads a problem that came as a message, on a session. It is false when its type is none of this protocol.
func ProblemOf(m *agentv1.Problem) (*Problem, bool) {
	name, ours := strings.CutPrefix(m.GetType(), problemBase)
	if !ours || !isProblemName(name) {
		return nil, false
	}
	p := &Problem{
		Name:       Name(name),
		Detail:     CutText(m.GetDetail(), maxDetailBytes),
		Instance:   CutText(m.GetInstance(), MaxText),
		Minimum:    CutText(m.GetMinimum(), MaxVersion),
		RetryAfter: min(time.Duration(m.GetRetryAfter())*time.Second, maxRetryAfter),
		status:     int(min(m.GetStatus(), 999)),
	}
	for i, s := range m.GetSupported() {
		if i == maxSupported {
			break
		}
		p.Supported = append(p.Supported, CutText(s, MaxText))
	}
	return p, true
}

func isProblemType(contentType string) bool {
	name, _, err := mime.ParseMediaType(contentType)
	return err == nil && name == typeProblem
}

func isProblemName(s string) bool {
	for _, c := range []byte(s) {
		if c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxNameBytes
}
