package capture

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
)

// oneHost returns the connection string of the host that a connection string with several hosts leads to now. The
// slot and the log must be the same server's, and the replication protocol cannot choose by itself: it has no
// query for whether a server takes writes that would suit target_session_attrs.
func oneHost(ctx context.Context, connString string) (string, error) {
	conn, err := cluster.Connect(ctx, connString)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	cfg, err := pgconn.ParseConfig(connString)
	if err != nil {
		return "", err
	}
	host, port := peerOf(ctx, conn, cfg)
	if strings.HasPrefix(connString, "postgres://") || strings.HasPrefix(connString, "postgresql://") {
		u, err := url.Parse(strings.Replace(connString, hostsOf(connString), "", 1))
		if err != nil {
			return "", fmt.Errorf("choose one host of the connection string: %w", err)
		}
		q := u.Query()
		q.Set("host", host)
		q.Set("port", port)
		q.Set("target_session_attrs", "any")
		u.RawQuery = q.Encode()
		return u.String(), nil
	}
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(host)
	return fmt.Sprintf("%s host='%s' port=%s target_session_attrs=any", connString, quoted, port), nil
}

// hostsOf returns the part of a URI that lists hosts and ports: net/url refuses a list.
func hostsOf(uri string) string {
	_, rest, _ := strings.Cut(uri, "://")
	rest, _, _ = strings.Cut(rest, "?")
	rest, _, _ = strings.Cut(rest, "/")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	return rest
}

// peerOf returns the host, by the name that the configuration gives it, and the port of a connection's server.
func peerOf(ctx context.Context, conn *pgx.Conn, cfg *pgconn.Config) (host, port string) {
	type candidate struct {
		host string
		port uint16
	}
	all := []candidate{{cfg.Host, cfg.Port}}
	for _, f := range cfg.Fallbacks {
		all = append(all, candidate{f.Host, f.Port})
	}
	peer := conn.PgConn().Conn().RemoteAddr()
	for _, c := range all {
		network, address := pgconn.NetworkAddress(c.host, c.port)
		if network == "unix" {
			if address == peer.String() {
				return c.host, strconv.Itoa(int(c.port))
			}
			continue
		}
		ip, p, err := net.SplitHostPort(peer.String())
		if err != nil || p != strconv.Itoa(int(c.port)) {
			continue
		}
		names, _ := net.DefaultResolver.LookupHost(ctx, c.host)
		if c.host == ip || slices.Contains(names, ip) {
			return c.host, p
		}
	}
	return cfg.Host, strconv.Itoa(int(cfg.Port))
}
