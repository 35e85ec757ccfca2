package evidence

import (
	"encoding/base64"
	"encoding/json"
	"errors"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// envelope is a DSSE envelope (github.com/secure-systems-lab/dsse, envelope.md). Its exact bytes are the leaf of the log.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// enclose signs a statement.
func enclose(s *Statement, by *seal.Signer) ([]byte, error) {
	payload, err := s.marshal()
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{PayloadType, payload, []signature{{by.Public().ID(), by.SignEnvelope(PayloadType, payload)}}})
}

// openEnvelope returns the payload that a key has signed.
func openEnvelope(b []byte, key seal.PublicKey) ([]byte, error) {
	e, err := parseEnvelope(b)
	if err != nil {
		return nil, err
	}
	for _, s := range e.Signatures {
		if s.KeyID == key.ID() && key.VerifyEnvelope(e.PayloadType, e.Payload, s.Sig) {
			return e.Payload, nil
		}
	}
	return nil, errors.New("its signature is not that of signer " + key.ID())
}

func parseEnvelope(b []byte) (envelope, error) {
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return e, errors.New("the envelope's JSON cannot be read")
	}
	if e.PayloadType != PayloadType {
		return e, errors.New("the envelope holds no in-toto statement")
	}
	return e, nil
}

// leafOf returns the hash of an envelope as a leaf of a log (RFC 6962, 2.1).
func leafOf(envelope []byte) tlog.Hash { return tlog.RecordHash(envelope) }

func encode64(h tlog.Hash) string { return base64.StdEncoding.EncodeToString(h[:]) }
