package line

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

const (
	// connections to one server that are kept open between requests: more than any pipeline has workers.
	idleConnections = 64

	bufferSize = 128 << 10
)

// Tune fits an HTTP transport to large objects.
func Tune(t *http.Transport) {
	t.MaxIdleConns, t.MaxIdleConnsPerHost = idleConnections, idleConnections
	t.WriteBufferSize, t.ReadBufferSize = bufferSize, bufferSize
	t.DisableCompression = true // what we send and get is sealed
	// HTTP/2 would send all of a process's uploads through one connection.
	t.ForceAttemptHTTP2 = false
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
}

// CheckEndpoint returns an error where what is sent to a server would carry a secret in plain text over a network.
func CheckEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return dr.Advise(errors.New("it is not http(s)://host"), "write endpoint=https://host or endpoint=https://host:port")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return dr.Advise(errors.New("its credentials would cross the network in plain text"), "write endpoint=https://…; http is for a server on this machine (127.0.0.1)")
	}
	return nil
}
