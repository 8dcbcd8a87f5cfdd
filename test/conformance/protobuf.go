package main

import (
	"encoding/binary"
	"errors"
)

// As much of protobuf's encoding as one heartbeat takes (protobuf.dev/programming-guides/encoding).

const (
	wireVarint = 0
	wireBytes  = 2
)

func appendBytes(b []byte, field uint64, v []byte) []byte {
	b = binary.AppendUvarint(b, field<<3|wireBytes)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendUint(b []byte, field, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, field<<3|wireVarint), v)
}

// fieldsOf finds the fields of a message that have bytes, by number. Others are passed over.
func fieldsOf(b []byte) (map[uint64][][]byte, error) {
	fields := map[uint64][][]byte{}
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errors.New("no protobuf")
		}
		b = b[n:]
		v, n := binary.Uvarint(b)
		if n <= 0 || tag&7 != wireVarint && tag&7 != wireBytes {
			return nil, errors.New("no protobuf, or a wire type that no field here has")
		}
		b = b[n:]
		if tag&7 == wireVarint {
			continue
		}
		if v > uint64(len(b)) {
			return nil, errors.New("no protobuf: a field is cut off")
		}
		fields[tag>>3] = append(fields[tag>>3], b[:v])
		b = b[v:]
	}
	return fields, nil
}

func envelopeOf(b []byte) (envelope, error) {
	fields, err := fieldsOf(b)
	if err != nil || len(fields[1]) != 1 || len(fields[2]) != 1 {
		return envelope{}, errors.Join(err, errors.New("no envelope"))
	}
	e := envelope{PayloadType: string(fields[1][0]), Payload: fields[2][0]}
	for _, s := range fields[3] {
		parts, err := fieldsOf(s)
		if err != nil || len(parts[2]) != 1 {
			return envelope{}, errors.Join(err, errors.New("no signature"))
		}
		e.Signatures = append(e.Signatures, signature{Sig: parts[2][0]})
	}
	return e, nil
}
