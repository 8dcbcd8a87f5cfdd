package enrollment

import (
	"fmt"
	"time"
)

// Reason of a denial: the name of the protocol's problem, in CamelCase. The gateway answers that problem.
type Reason string

// The reasons.
const (
	TokenUnknown           Reason = "TokenUnknown"
	TokenExpired           Reason = "TokenExpired"
	TokenExhausted         Reason = "TokenExhausted"
	ProofInvalid           Reason = "ProofInvalid"
	CSRInvalid             Reason = "CsrInvalid"
	EnrollmentDenied       Reason = "EnrollmentDenied"
	CertificateExpired     Reason = "CertificateExpired"
	CertificateSuperseded  Reason = "CertificateSuperseded"
	CertificateUnknown     Reason = "CertificateUnknown"
	EndpointSuspended      Reason = "EndpointSuspended"
	EndpointBlocked        Reason = "EndpointBlocked"
	EndpointDecommissioned Reason = "EndpointDecommissioned"
	EndpointUnknown        Reason = "EndpointUnknown"
)

// Denial is a final no: asking again with the same request gets the same answer. Detail says what to do.
type Denial struct {
	Reason Reason
	Detail string
}

func (d *Denial) Error() string { return string(d.Reason) + ": " + d.Detail }

func deny(reason Reason, format string, args ...any) *Denial {
	return &Denial{reason, fmt.Sprintf(format, args...)}
}

// pause is not an answer: the request is looked at again after a while, or, with none, when it changes.
type pause struct {
	after time.Duration
	why   string
}

func (p *pause) Error() string { return p.why }
