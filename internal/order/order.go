// Package order converts signed messages between the form that resources carry and the form that the protocol carries. The bytes that
// were signed are the same in both.
package order

import (
	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// ToResource is e as a resource carries it.
func ToResource(e *agentv1.Envelope) v1alpha1.Envelope {
	out := v1alpha1.Envelope{PayloadType: e.GetPayloadType(), Payload: e.GetPayload()}
	for _, s := range e.GetSignatures() {
		out.Signatures = append(out.Signatures, v1alpha1.EnvelopeSignature{KeyID: v1alpha1.Text(s.GetKeyid()), Sig: s.GetSig()})
	}
	return out
}

// FromResource is e as the protocol carries it.
func FromResource(e v1alpha1.Envelope) *agentv1.Envelope {
	out := &agentv1.Envelope{PayloadType: e.PayloadType, Payload: e.Payload}
	for _, s := range e.Signatures {
		out.Signatures = append(out.Signatures, &agentv1.Signature{Keyid: string(s.KeyID), Sig: s.Sig})
	}
	return out
}
