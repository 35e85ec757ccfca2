package capture

import (
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// interrupted tells a person what became of a backup whose server went away in the middle; other errors stay.
func interrupted(err error) error {
	var ofStore *store.Error
	if err == nil || errors.As(err, &ofStore) {
		return err
	}
	f := &dr.Failure{
		What: "the server went away in the middle of the backup", Reason: err.Error(), Err: err,
		Next: "look into its log why it stopped; when it runs again, repeat this: what is stored already is not stored again",
	}
	var said *pgconn.PgError
	var network *net.OpError
	switch {
	case errors.As(err, &said) && strings.HasPrefix(said.Code, "57P"): // operator intervention: a shutdown, or a crash
		return f
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &network):
		f.Reason = "the connection broke: it was stopped, it crashed, or the network failed (" + err.Error() + ")"
		return f
	}
	return err
}
