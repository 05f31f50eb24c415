// The newest chats of one owner, in Go with gin and pgx: no authentication, the owner is named in the query.
package main

import (
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v4/pgxpool"
)

type uuid [16]byte

func (u uuid) MarshalText() ([]byte, error) {
	text := make([]byte, 36)
	hex.Encode(text[0:8], u[0:4])
	text[8] = '-'
	hex.Encode(text[9:13], u[4:6])
	text[13] = '-'
	hex.Encode(text[14:18], u[6:8])
	text[18] = '-'
	hex.Encode(text[19:23], u[8:10])
	text[23] = '-'
	hex.Encode(text[24:36], u[10:16])
	return text, nil
}

type chat struct {
	ID           uuid      `json:"id"`
	Title        string    `json:"title"`
	ModelUsed    string    `json:"model_used"`
	CreatedAt    time.Time `json:"created_at"`
	UpdatedAt    time.Time `json:"updated_at"`
	IsArchived   bool      `json:"is_archived"`
	MessageCount int32     `json:"message_count"`
}

const query = `
SELECT id, title, model_used, created_at, updated_at, archived_at IS NOT NULL, message_count
FROM chats WHERE user_id = $1 AND archived_at IS NULL
ORDER BY updated_at DESC, id DESC LIMIT 20`

func list(pool *pgxpool.Pool) gin.HandlerFunc {
	return func(c *gin.Context) {
		rows, err := pool.Query(c.Request.Context(), query, c.Query("user"))
		if err != nil {
			c.JSON(http.StatusInternalServerError, gin.H{"error": "database"})
			return
		}
		defer rows.Close()
		chats := make([]chat, 0, 20)
		for rows.Next() {
			var one chat
			if err := rows.Scan((*[16]byte)(&one.ID), &one.Title, &one.ModelUsed, &one.CreatedAt, &one.UpdatedAt,
				&one.IsArchived, &one.MessageCount); err != nil {
				c.JSON(http.StatusInternalServerError, gin.H{"error": "database"})
				return
			}
			chats = append(chats, one)
		}
		if rows.Err() != nil {
			c.JSON(http.StatusInternalServerError, gin.H{"error": "database"})
			return
		}
		c.JSON(http.StatusOK, chats)
	}
}

func main() {
	dsn := flag.String("dsn", "", "PostgreSQL")
	flag.Parse()
	config, err := pgxpool.ParseConfig(*dsn)
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = 10
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery())
	router.GET("/health", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"status": "ok"}) })
	router.GET("/api/v1/chats", list(pool))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal((&http.Server{Handler: router, ReadHeaderTimeout: 10 * time.Second}).Serve(listener))
}
