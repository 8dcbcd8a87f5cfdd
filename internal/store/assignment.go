package store

import (
	"bytes"
	"encoding/json"
	"time"
	"unique"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

// assignmentHead is what assignments of many endpoints have in common. Its zero value: there is no assignment, or the record's text has it
// whole.
//
// The payload of an assignment repeats what the record knows. It is therefore not kept but encoded again, if that was seen to give the very
// bytes that were signed; then the text has the signature alone, a fifth of the whole.
type assignmentHead struct {
	unique.Handle[assignmentShared]
}

type assignmentShared struct{ fleetID, policyID, keyID string }

// setAssignment takes an assignment over, all but the text that it returns. What is not an assignment is none.
func (r *record) setAssignment(stored *v1alpha1.Envelope) (text string) {
	e := order.FromResource(*stored)
	a := &agentv1.Assignment{}
	if envelope.Check(e, envelope.Assignment) != nil || envelope.Parse(e.GetPayload(), a) != nil || !a.GetIssuedAt().IsValid() {
		return ""
	}
	r.assigned = a.GetIssuedAt().AsTime().UnixNano()
	if sigs := e.GetSignatures(); len(sigs) == 1 {
		head := assignmentShared{a.GetFleetId(), a.GetPolicyId(), sigs[0].GetKeyid()}
		if again, err := r.assignmentPayload(head); err == nil && bytes.Equal(again, e.GetPayload()) {
			r.order = assignmentHead{unique.Make(head)}
			return string(sigs[0].GetSig())
		}
	}
	whole, err := e.MarshalVT()
	if err != nil {
		r.assigned = 0
		return ""
	}
	return string(whole)
}

func (r *record) assignmentPayload(head assignmentShared) ([]byte, error) {
	loose, err := protojson.Marshal(&agentv1.Assignment{
		Namespace: r.namespace.Value(), FleetId: head.fleetID, IdentityId: r.id.String(), PolicyId: head.policyID,
		IssuedAt: timestamppb.New(time.Unix(0, r.assigned)),
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = json.Compact(&b, loose)
	return b.Bytes(), err
}

func (r *record) packedAssignment() string { return r.text[int(r.nameLen)+int(r.remoteLen):] }

// assignment is the envelope that setAssignment took over.
func (r *record) assignment() *agentv1.Envelope {
	switch {
	case r.assigned == 0:
		return nil
	case r.order == assignmentHead{}:
		e := &agentv1.Envelope{}
		if e.UnmarshalVT([]byte(r.packedAssignment())) != nil {
			return nil
		}
		return e
	}
	head := r.order.Value()
	payload, err := r.assignmentPayload(head)
	if err != nil {
		return nil
	}
	return &agentv1.Envelope{
		PayloadType: string(envelope.Assignment), Payload: payload,
		Signatures: []*agentv1.Signature{{Keyid: head.keyID, Sig: []byte(r.packedAssignment())}},
	}
}
