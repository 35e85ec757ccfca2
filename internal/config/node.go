package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// pair is one entry of a mapping.
type pair struct{ key, value *yaml.Node }

// pairs returns the entries of a mapping whose keys are text, each key once.
func (r *report) pairs(n *yaml.Node, path string) []pair {
	var all []pair
	seen := map[string]place{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			r.add(placeOf(k), "a key of "+within(path)+" is "+whatIs(k), "a key is a word", "")
			continue
		}
		if k.Tag == "!!merge" {
			r.add(placeOf(k), `the merge key "<<" in `+within(path)+" is not supported", "every value stands where it counts, so that a line number means something", "write the keys out")
			continue
		}
		if first, twice := seen[k.Value]; twice {
			r.add(placeOf(k), fmt.Sprintf("key %s stands twice in %s", quote(k.Value), within(path)), fmt.Sprintf("it stands in line %d already", first.line), "remove one of them")
			continue
		}
		seen[k.Value] = placeOf(k)
		all = append(all, pair{k, v})
	}
	return all
}

// wantMapping tells whether n can be read as a mapping: it is one, or there is nothing after the key, which
// means that all of its keys are left out.
func (r *report) wantMapping(n *yaml.Node, path string) bool {
	if n.Kind == yaml.MappingNode || isNull(n) {
		return true
	}
	r.wrongType(n, path, "a mapping (key: value)")
	return false
}

func (r *report) wrongType(n *yaml.Node, path, want string) {
	if n.Kind == yaml.AliasNode {
		r.add(placeOf(n), within(path)+" is an alias (*)", "anchors and aliases are not supported, so that a line number means something", "write the value out")
		return
	}
	r.add(placeOf(n), within(path)+" is "+whatIs(n), "it must be "+want, "")
}

func (r *report) unknownKey(k *yaml.Node, path string, known []string) {
	reason := "the keys there are " + strings.Join(known, ", ")
	next := suggestion(k.Value, known, "")
	switch strings.ToLower(k.Value) {
	case "password", "passphrase", "secret", "secret-key", "secret-access-key", "access-key", "token":
		reason = "secrets are never in this file; it names files and environment variables that hold them"
		next = "use keys.passphrase-file for a repository, a passfile or a service for PostgreSQL, and what the AWS tools read for S3"
	}
	r.add(placeOf(k), fmt.Sprintf("key %s is unknown in %s", quote(k.Value), within(path)), reason, next)
}

func whatIs(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	case isNull(n):
		return "empty"
	case n.Tag == "!!bool":
		return "true or false"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "a number"
	case n.Tag == "!!timestamp":
		return "a date"
	}
	return "text"
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// within names the place that a path means.
func within(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// text returns a node that holds s and is read back as text, whatever s looks like.
func text(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

// fallbackNode parses a default of the description. It stands, for messages, where the key was left out.
func fallbackNode(fallback string, around *yaml.Node) *yaml.Node {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(fallback), &doc); err != nil || len(doc.Content) != 1 {
		panic(fmt.Sprintf("config: default %q in the description is no YAML: %v", fallback, err))
	}
	n := doc.Content[0]
	setPlace(n, around)
	return n
}

func setPlace(n, around *yaml.Node) {
	n.Line, n.Column = around.Line, around.Column
	for _, c := range n.Content {
		setPlace(c, around)
	}
}
