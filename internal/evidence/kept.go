package evidence

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// Checkpoints returns the newest checkpoint of each log, as an auditor keeps them in one file.
func (v Verified) Checkpoints() []byte {
	var notes [][]byte
	for _, l := range v.Logs {
		if l.Checkpoint != "" {
			notes = append(notes, []byte(l.Checkpoint))
		}
	}
	return bytes.Join(notes, []byte("\n"))
}

// ParseKept reads a file of checkpoints. Their signatures are looked at when they are compared with their logs.
func ParseKept(file string, content []byte) (out []Sighting, err error) {
	rest := content
	for n := 1; len(bytes.TrimSpace(rest)) > 0; n++ {
		one := rest
		if i := bytes.Index(rest, []byte("\n\n"+originPrefix)); i >= 0 {
			one, rest = rest[:i+1], rest[i+2:]
		} else {
			rest = nil
		}
		c, err := readCheckpoint(one)
		if err != nil {
			return nil, fmt.Errorf("checkpoint %d: %w", n, err)
		}
		out = append(out, Sighting{Seen: Seen{c.Origin, c.Size, hex.EncodeToString(c.Root[:])}, Who: "the checkpoint in " + file, signed: one})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it holds no checkpoint")
	}
	return out, nil
}

// authentic tells whether the signer of a log has said what is told of it, as far as that is told with a signature.
func (s Sighting) authentic(l *Log) error {
	if s.signed == nil {
		return nil
	}
	_, err := openCheckpoint(s.signed, l.Signer.Key)
	return err
}
