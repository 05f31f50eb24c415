-- I6: what an answer has cost is known for good. A guest who is deleted leaves rows behind that name nobody.
-- Not validated: the constraint that goes has judged the rows that there are.
SET LOCAL lock_timeout = '5s';
ALTER TABLE usage ALTER COLUMN user_id DROP NOT NULL;
ALTER TABLE usage DROP CONSTRAINT usage_user_id_fkey;
ALTER TABLE usage ADD CONSTRAINT usage_user_id_fkey FOREIGN KEY (user_id) REFERENCES users ON DELETE SET NULL NOT VALID;
