package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// EnvironmentVariable names the configuration file where --config does not.
const EnvironmentVariable = "HOLDFAST_CONFIG"

// searched are the places that Find looks at, in this order.
var searched = [...]string{"holdfast.yaml", "/etc/holdfast/holdfast.yaml"}

// maxFile bounds the file; a person's configuration is far below.
const maxFile = 4 << 20

// Find returns the path of the configuration file: the explicit one, the one that HOLDFAST_CONFIG names,
// ./holdfast.yaml or /etc/holdfast/holdfast.yaml. Only the last two are looked for.
func Find(explicit string) (string, error) {
	if explicit != "" {
		return explicit, nil
	}
	if path := os.Getenv(EnvironmentVariable); path != "" {
		return path, nil
	}
	for _, path := range searched {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, nil // what else is wrong with it, Load says
		}
	}
	return "", &dr.Failure{
		What:   "there is no holdfast.yaml",
		Reason: fmt.Sprintf("neither ./%s nor %s exists, and neither --config nor %s names another file", searched[0], searched[1], EnvironmentVariable),
		Next:   "name it with --config FILE",
		Err:    fs.ErrNotExist,
	}
}

// Load reads and checks a configuration file. The error is Mistakes where the file could be read.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, dr.Fail("read the configuration "+path, errors.Unwrap(err), "name another file with --config FILE")
	}
	defer f.Close() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, dr.Fail("read the configuration "+path, err, "")
	}
	if len(text) > maxFile {
		return nil, &dr.Failure{What: "read the configuration " + path, Reason: "it has more than 4 MiB, so it is another file"}
	}
	return Parse(path, text)
}

// Parse reads and checks the text of a configuration file; path is for messages. The error is Mistakes.
func Parse(path string, text []byte) (*Config, error) {
	r := &report{file: path, places: map[string]place{}}
	c := &Config{Path: path}
	root := r.root(text)
	if root == nil {
		return nil, r.err()
	}
	file.decode(r, root, "", c)
	c.complete(r, root)
	// What several keys say together is judged only where each of them is right by itself.
	if err := r.err(); err != nil {
		return nil, err
	}
	c.check(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// syntaxLine finds the line in the errors of package yaml.
var syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// root returns the top of the one document in text, or nil after noting what is wrong.
func (r *report) root(text []byte) *yaml.Node {
	var doc, second yaml.Node
	in := yaml.NewDecoder(bytes.NewReader(text))
	err := in.Decode(&doc)
	if err == nil {
		if err = in.Decode(&second); errors.Is(err, io.EOF) {
			return doc.Content[0]
		}
		if err == nil {
			r.add(placeOf(&second), "a second document begins here", "the file has one", "remove the line ---")
			return nil
		}
	}
	if errors.Is(err, io.EOF) {
		r.add(place{1, 1}, "the file is empty", `it must have at least "version: 1"`, "")
		return nil
	}
	at, reason := place{1, 1}, err.Error()
	if m := syntaxLine.FindStringSubmatch(reason); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil && line > 0 {
			at.line = line
		}
		reason = m[2]
	}
	r.add(at, "the file is not YAML", reason, "look at this line and the one before it")
	return nil
}

// Marshal returns c as a holdfast.yaml in which every default is spelled out. Parse reads it back as c.
func (c *Config) Marshal() ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(file.encode(*c)), enc.Close()); err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	return out.Bytes(), nil
}
