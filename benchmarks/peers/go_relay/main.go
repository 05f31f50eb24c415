// A plain relay of a model's token stream in Go, standard library only: nothing is stored, nobody is authenticated.
//
// It is what a Go programmer writes first and would be content with: one goroutine per request, net/http on both sides,
// one JSON parse and one flush per token.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

type sendRequest struct {
	Content string `json:"content"`
}

type promptMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type completionRequest struct {
	Model    string          `json:"model"`
	Stream   bool            `json:"stream"`
	Messages []promptMessage `json:"messages"`
}

type completionChunk struct {
	Choices []struct {
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
}

type frame struct {
	Type    string `json:"type"`
	Content string `json:"content"`
	Tokens  int    `json:"tokens,omitempty"`
}

type relay struct {
	upstream string
	client   *http.Client
}

var (
	dataPrefix = []byte("data: ")
	done       = []byte("[DONE]")
)

func writeFrame(w http.ResponseWriter, flusher http.Flusher, f frame) error {
	body, err := json.Marshal(f)
	if err != nil {
		return err
	}
	event := make([]byte, 0, len(body)+8)
	event = append(event, dataPrefix...)
	event = append(event, body...)
	event = append(event, '\n', '\n')
	if _, err := w.Write(event); err != nil {
		return err
	}
	flusher.Flush()
	return nil
}

func (r *relay) open(request *http.Request) (*http.Response, error) {
	var send sendRequest
	if err := json.NewDecoder(request.Body).Decode(&send); err != nil {
		return nil, err
	}
	body, err := json.Marshal(completionRequest{
		Model:    "scripted",
		Stream:   true,
		Messages: []promptMessage{{Role: "user", Content: send.Content}},
	})
	if err != nil {
		return nil, err
	}
	call, err := http.NewRequestWithContext(
		request.Context(), http.MethodPost, r.upstream+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	call.Header.Set("Content-Type", "application/json")
	return r.client.Do(call)
}

func (r *relay) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		http.Error(w, "no streaming", http.StatusInternalServerError)
		return
	}
	response, err := r.open(request)
	if err != nil {
		http.Error(w, "upstream unavailable", http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	flusher.Flush()

	var text strings.Builder
	tokens := 0
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	for lines.Scan() {
		line := lines.Bytes()
		if !bytes.HasPrefix(line, dataPrefix) {
			continue
		}
		payload := line[len(dataPrefix):]
		if bytes.Equal(payload, done) {
			_ = writeFrame(w, flusher, frame{Type: "complete", Content: text.String(), Tokens: tokens})
			return
		}
		var chunk completionChunk
		if err := json.Unmarshal(payload, &chunk); err != nil {
			break
		}
		if len(chunk.Choices) == 0 || chunk.Choices[0].Delta.Content == "" {
			continue
		}
		token := chunk.Choices[0].Delta.Content
		tokens++
		text.WriteString(token)
		if err := writeFrame(w, flusher, frame{Type: "token", Content: token}); err != nil {
			return
		}
	}
	_ = writeFrame(w, flusher, frame{Type: "error", Content: "the upstream ended early"})
}

func main() {
	upstream := flag.String("upstream", "", "base URL of the model provider")
	flag.Parse()
	handler := &relay{upstream: *upstream, client: &http.Client{Transport: &http.Transport{
		MaxIdleConns: 4096, MaxIdleConnsPerHost: 4096, IdleConnTimeout: 90 * time.Second,
	}}}
	mux := http.NewServeMux()
	mux.Handle("/api/v1/chats/", handler)
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"ok"}`) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}
