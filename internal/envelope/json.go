package envelope

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// MarshalJSON is the envelope as a DSSE JSON object, the form in ConfigMaps, annotations and files. Equal envelopes give equal bytes.
func MarshalJSON(e *agentv1.Envelope) ([]byte, error) {
	loose, err := protojson.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode an envelope: %w", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, loose); err != nil {
		return nil, fmt.Errorf("encode an envelope: %w", err)
	}
	return b.Bytes(), nil
}

// UnmarshalJSON reads a DSSE JSON object. Nothing in it is verified.
func UnmarshalJSON(b []byte) (*agentv1.Envelope, error) {
	e := &agentv1.Envelope{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("parse an envelope: %w", err)
	}
	return e, nil
}
